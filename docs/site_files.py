"""What the site is made of: the README, the pages of docs/, and every file of the project that one of them links to.

Files keep their places in the project, so that a link means the same on a code host and in the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<=\]\()[^)#:\s]+(?=[)#])")
LONG_NAME = re.compile(r"(?<=<code>)(?:tests/[\w/.]+::\w+|\w+\.\w+\.[\w.]+)(?=</code>)")
SEARCH_BOOST = (
    ("docs/keys.md", 4.0),
    ("docs/tutorial.md", 4.0),
    ("docs/methods/", 3.0),
    ("docs/", 2.0),
    ("README.md", 2.0),
)
"""Weight in the search by the start of a page's path; 1 for all other files, such as reports of measurements."""


def on_config(config: Any) -> Any:
    """Write the version of the package into the foot of every page."""
    package = Path(config.config_file_path).parent / "graftpop" / "__init__.py"
    version = re.search(r'^__version__ = "(.+)"$', package.read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None, "graftpop/__init__.py: must have a line __version__"
    config.copyright = f"graftpop {version[1]}, Apache-2.0"
    return config


def on_files(files: Files, config: Any) -> Files:
    """Return the files of the site; a folder that is linked to is a page that lists it."""
    root = Path(config.config_file_path).resolve().parent
    wanted = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    found: dict[str, File] = {}
    while wanted:
        path = wanted.pop()
        name = path.relative_to(root).as_posix()
        if name in found or not path.exists():
            continue
        if path.is_dir():
            names = sorted(file.name for file in path.iterdir() if not file.name.startswith(("_", ".")))
            listing = "".join(f"- [{file}]({file})\n" for file in names)
            found[name] = File.generated(config, f"{name}/index.md", content=f"# {name}\n\n{listing}")
            wanted += [path / file for file in names]
        else:
            found[name] = File(name, str(root), config.site_dir, config.use_directory_urls)
            text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
            wanted += [(path.parent / link).resolve() for link in LINK.findall(text)]
    others = [file for file in files if file.src_dir != config.docs_dir or file.src_uri in config.extra_css]
    return Files([*found.values(), *others])


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return a page's text with links to folders leading to the pages that list them."""
    name = page.file.src_uri
    page.meta["search"] = {"boost": next((boost for start, boost in SEARCH_BOOST if name.startswith(start)), 1.0)}
    folder = (Path(config.config_file_path).parent / name).parent

    def to_page(link: re.Match[str]) -> str:
        return f"{link[0].rstrip('/')}/index.md" if (folder / link[0]).is_dir() else link[0]

    return LINK.sub(to_page, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Return a page whose long names, of tests and functions, may break after each part: tables get narrower."""
    return LONG_NAME.sub(lambda name: re.sub(r"([/_.]|::)", r"\1<wbr>", name[0]), html)
