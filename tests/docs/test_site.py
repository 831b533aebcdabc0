"""docs/ as a site: it builds without warnings, has no dead links and loads nothing external."""

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import browser

ROOT = Path(__file__).parents[2]


class References(HTMLParser):
    """The links, parts and anchors of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.parts: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given["id"] or ""} if "id" in given else set()
        target = given.get("href") or given.get("src")
        if target:
            (self.links if tag == "a" else self.parts).append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def pages(site: Path) -> dict[Path, References]:
    return {file: References(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}


def test_site_has_no_dead_links(site: Path) -> None:
    found = pages(site)
    dead = []
    for file, references in found.items():
        for link in [*references.links, *references.parts]:
            target = urlsplit(link)
            to = (file.parent / unquote(target.path)).resolve() if target.path else file
            if not target.scheme and (
                not to.is_file()
                or (to in found and target.fragment and unquote(target.fragment) not in found[to].anchors)
            ):
                dead.append(f"{file.relative_to(site)}: {link}")
    assert len(found) > 10
    assert dead == []


def listed_pages(entry: Any) -> Iterator[str]:
    """Yield the pages of an entry of the navigation, from top to bottom."""
    if isinstance(entry, str):
        yield entry
    else:
        for below in entry.values() if isinstance(entry, dict) else entry:
            yield from listed_pages(below)


def test_navigation_lists_every_page_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = [*listed_pages(yaml.safe_load(text)["nav"])]
    existing = [file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(["README.md", *existing]), "mkdocs.yml: nav needs a line for each page of docs/"


def test_formulas_are_mathml_everywhere(site: Path) -> None:
    for file in sorted((ROOT / "docs" / "methods").glob("*.md")):
        source = re.sub(r"`[^`]*`", "", file.read_text(encoding="utf-8").replace("```math", "$"))
        page = (site / "docs" / "methods" / f"{file.stem}.html").read_text(encoding="utf-8")
        assert page.count("<math ") == page.count("</math>")
        assert ("<math " in page) == ("$" in source), file.name
        article = page.partition("<article")[2].partition("</article>")[0]
        assert not re.search(r"\$|\\\w", re.sub(r"<code.*?</code>", "", article, flags=re.DOTALL)), file.name


def test_api_page_describes_names_from_their_docstrings(site: Path) -> None:
    page = References(site / "docs" / "reference" / "api.html")
    assert {"graftpop.Population.run", "graftpop.read_run", "graftpop.Task"} <= page.anchors


def test_linked_folder_is_a_page_listing_its_files(site: Path) -> None:
    listing = References(site / "search_spaces" / "papers" / "index.html")
    assert "grafting_alpha.yaml" in listing.links


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder during a block; yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.mark.timeout(120)
def test_pages_fit_the_screen_and_load_nothing_external(site: Path, chromium: Any) -> None:
    requested: list[str] = []
    errors: list[str] = []
    with served(site) as address:
        page = chromium.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index.html", "docs/keys.html", "docs/architecture.html", "docs/methods/grafting.html"):
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(f"{address}/{name}")
            for width in (1280, 390):  # the way back slides a drawer in from beyond the screen
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            page.wait_for_load_state("networkidle")
        sizes = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)")
        assert len(sizes) > 10
        assert min(sizes) > 5
        assert [url for url in requested if not url.startswith(f"{address}/")] == []
        page.close()
    assert len(requested) > 3
    assert errors == []


@pytest.mark.timeout(120)
def test_search_finds_a_key(site: Path, chromium: Any) -> None:
    with served(site) as address:
        page = chromium.new_page()
        page.goto(f"{address}/index.html", wait_until="networkidle")
        page.click("input.md-search__input")
        page.get_by_text("Type to start searching").wait_for()  # the index is loaded
        page.keyboard.type("burn_in_rounds")
        page.wait_for_selector(".md-search-result__item a[href*='docs/keys.html']")
        assert re.search("graft", page.inner_text(".md-search-result__item a[href*='docs/keys.html'][href*='#']"))
        page.fill("input.md-search__input", "")
        page.keyboard.type("mutual learning")
        first = page.locator(".md-search-result__item:first-child a[href*='docs/methods/mutual']").first
        first.wait_for()  # the guide comes before the measurements
