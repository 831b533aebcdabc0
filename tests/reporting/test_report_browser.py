"""The report page in a browser: pointer and keyboard, light and dark color schemes, phone, paper."""

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from report_makers import compared, grafts_of, many_trials, page, rounds_of, trial

LIMIT_MS = 20_000

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a report with every kind of content."""
    trials, rounds = many_trials(20, 5)
    diagnostics = [
        {"trial_id": row["trial_id"], "round": round_, "peer": 0, "other": 1, "diagnostic": name, "value": 0.5}
        for row in trials
        for round_ in range(1, 6)
        for name in ("distance", "disagreement")
    ]
    events = [
        {"trial_id": "00004", "at": datetime.now(UTC), "round": 2, "peer": 1, "event": event, "cause": "killed"}
        for event in ("lost", "replaced")
    ]
    grafts = [graft for row in trials for graft in grafts_of(row["trial_id"], num_rounds=5)]
    return written(
        tmp_path_factory.mktemp("report"), page(trials, rounds, grafts, diagnostics=diagnostics, events=events)
    )


def written(folder: Path, html: str) -> str:
    (folder / "report.html").write_text(html, encoding="utf-8")
    return (folder / "report.html").as_uri()


class Tab:
    """An open page with its errors and its requests to other addresses."""

    def __init__(self, chromium: Any, address: str, init_script: str = "", **options: Any) -> None:
        self.page = chromium.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
        self.page.add_init_script(init_script)
        self.page.set_default_timeout(LIMIT_MS)
        self.errors: list[str] = []
        self.page.on("console", lambda message: self.errors.extend([message.text] * (message.type == "error")))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._check_request(request.url, address))
        self.page.goto(address)

    def _check_request(self, url: str, address: str) -> None:
        self.errors.extend([url] * (not url.startswith(address)))

    def draw_all(self) -> list[str]:
        """Scroll through the page; return the names of the figures, each drawn and with a description."""
        drawn = []
        for figure in self.page.query_selector_all("[data-figure]:not([hidden])"):
            figure.scroll_into_view_if_needed()
            name = figure.get_attribute("data-figure")
            self.page.wait_for_selector(f"[data-figure='{name}'] :is({MARKS})", state="attached")
            assert figure.query_selector(".plot").get_attribute("aria-label")
            drawn.append(name)
        return drawn

    def texts(self, selector: str) -> list[str]:
        """Return the texts of the visible elements."""
        return [element.inner_text() for element in self.page.query_selector_all(selector) if element.is_visible()]


@pytest.fixture
def open_tab(chromium: Any) -> Iterator["Open"]:
    """Open tabs, and close them after the test: an open one keeps drawing."""
    tabs: list[Tab] = []

    def opened(address: str, *script: str, **options: Any) -> Tab:
        tabs.append(Tab(chromium, address, *script, **options))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.page.close()


CURVES = "document.querySelector(\"[data-figure='curves'] .plot\")"

Open = Callable[..., Tab]
"""Opens a tab at an address, with options of the browser."""

MARKS = "path.js-line, .hm image, .bars path, canvas.gl-canvas-context, .points path, .plot:not(:has(svg))"
"""Elements that plotly draws: lines, heat maps, bars, parallel coordinates, points; or a sentence in their place."""

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("options", [{}, PHONE | {"color_scheme": "dark"}], ids=["light", "dark on a phone"])
def test_all_figures_are_drawn_without_errors_or_requests(open_tab: Open, report: str, options: dict[str, Any]) -> None:
    tab = open_tab(report, **options)
    assert tab.draw_all() == [
        "curves",
        "history",
        "slices",
        "parallel",
        "importances",
        "ranks",
        "landscape",
        "trial/TRIAL/peers",
        "trial/TRIAL/alpha/RECEIVER",
        "trial/TRIAL/entropies/RECEIVER",
        "trial/TRIAL/invalid/RECEIVER",
        "trial/TRIAL/distances",
        "trial/TRIAL/lineage",
    ]
    assert tab.errors == []
    width = tab.page.viewport_size["width"]
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.page.query_selector("[data-figure='curves'] .plot").hover()
    assert [element for element in tab.page.query_selector_all(".modebar") if element.is_visible()] == [] or not options
    assert tab.page.evaluate(f"{CURVES}.layout.dragmode") is (False if options else None)
    assert tab.page.evaluate(f"{CURVES}.layout.xaxis.linecolor === pageColor('--faint')")


def test_idle_page_draws_all_figures_and_fits_them_to_paper(open_tab: Open, report: str) -> None:
    tab = open_tab(report, color_scheme="dark")
    tab.page.wait_for_function("!document.querySelector('[data-figure]:not([hidden], [data-drawn])')")
    assert tab.page.evaluate("scrollY") == 0
    tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    width = tab.page.query_selector("body").bounding_box()["width"]
    drawn = tab.page.query_selector_all("[data-figure]:not([hidden]) .plot svg, table")
    assert len(drawn) > 10
    assert max(each.bounding_box()["width"] for each in drawn) <= width + 1
    assert tab.page.evaluate("(each => each.scrollHeight <= each.clientHeight)(document.querySelector('.tall'))")
    assert tab.page.evaluate(f"{CURVES}.layout.paper_bgcolor") == "#ffffff"
    tab.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.page.evaluate(f"{CURVES}.layout.paper_bgcolor") == "#0d1117"
    tab.page.wait_for_function(f"{CURVES}.clientWidth === {CURVES}.querySelector('svg').clientWidth")
    assert tab.errors == []


def test_comparison_on_a_phone_stacks_its_figures_without_overlapping_labels(open_tab: Open, tmp_path: Path) -> None:
    scores = {f"variant-{index}": (0.5 + 0.001 * index, 0.51) for index in range(12)}
    low = {"variant-0": 3.0}
    html = compared(scores, train_images=low, epochs=low, time_s=low, inference_flops=low)
    tab = open_tab(written(tmp_path, html), color_scheme="dark", viewport={"width": 400, "height": 800})
    costs = [f"costs/0/{cost}" for cost in ("images", "epochs", "time", "flops")]
    assert tab.draw_all()[:5] == ["differences/0", *costs]
    boxes = [tab.page.query_selector(f"[data-figure='{name}']").bounding_box() for name in costs]
    assert all(box["width"] <= 400 for box in boxes)
    assert all(above["y"] + above["height"] <= below["y"] for above, below in pairwise(boxes))
    for name in costs:
        labels = tab.page.query_selector_all(f"[data-figure='{name}'] .textpoint text")
        places = sorted((label.bounding_box() for label in labels), key=lambda box: box["y"])
        assert len(places) == 12
        assert all(above["y"] + above["height"] <= below["y"] + 1 for above, below in pairwise(places))
        assert all(place["x"] + place["width"] <= 400 for place in places)
        inks = {label.evaluate("each => getComputedStyle(each).fill") for label in labels}
        assert inks == {tab.page.evaluate("getComputedStyle(document.body).color")}
    assert tab.errors == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 400
    with tab.page.expect_download() as saved:
        tab.page.click("#comparison .csv")
    with open(saved.value.path(), newline="", encoding="utf-8") as file:
        intervals = [row["95 % interval"].split(" to ") for row in csv.DictReader(file)]
    assert {float(interval[0]) < 0 < float(interval[1]) for interval in intervals[1:]} == {True}


def test_click_on_a_row_selects_its_trial(open_tab: Open, report: str) -> None:
    tab = open_tab(report)
    tab.page.click("text='00007'")
    selected = f"{CURVES}.data?.at(-1)"
    tab.page.wait_for_function(f"{selected}.name === 'trial 00007'")
    assert tab.page.evaluate(f"{selected}.x") == [200, 400, 600, 800, 1000]
    assert tab.page.input_value("#trial") == "00007"
    assert tab.page.get_attribute("tr[data-trial='00007']", "aria-current") is not None
    peers = tab.page.query_selector("[data-figure='trial/TRIAL/peers']")
    peers.scroll_into_view_if_needed()
    tab.page.wait_for_selector("[data-drawn='trial/00007/peers']")
    tab.page.select_option("#receiver", "0")
    tab.page.query_selector("[data-figure='trial/TRIAL/alpha/RECEIVER']").scroll_into_view_if_needed()
    tab.page.wait_for_selector("[data-drawn='trial/00007/alpha/0']")
    assert tab.errors == []


def test_address_selects_its_trial_or_reports_it_missing(open_tab: Open, report: str) -> None:
    tab = open_tab(f"{report}#trial=00004")
    assert tab.page.input_value("#trial") == "00004"
    tab.page.evaluate("location.hash = 'trial=00015'")
    tab.page.wait_for_selector("#missing:not([hidden])", state="attached")
    assert tab.page.query_selector("[data-figure='trial/TRIAL/peers']").is_hidden()


def test_table_is_sorted_and_filtered_by_keyboard_and_saved(open_tab: Open, report: str) -> None:
    tab = open_tab(report)
    head = tab.page.query_selector("#table-trials th:has-text('graft.A') button")
    head.focus()
    tab.page.keyboard.press("Enter")
    assert tab.texts("#table-trials tbody th")[:3] == ["00019", "00018", "00017"]
    assert tab.page.get_attribute("#table-trials th:has-text('graft.A')", "aria-sort") == "descending"
    tab.page.keyboard.press("Enter")
    assert tab.texts("#table-trials tbody th")[0] == "00000"
    tab.page.fill("[data-filters='trials']", "00007")  # and not trial 00000, whose accuracy begins with 7
    assert tab.texts("#table-trials tbody th") == ["00007"]
    tab.page.fill("[data-filters='trials']", "00003")
    assert tab.texts("#table-trials tbody th") == ["00003"]
    assert tab.texts("[data-counts='trials']") == ["1 of 20"]
    with tab.page.expect_download() as saved:
        tab.page.click("#trials .csv")
    assert saved.value.suggested_filename == "made-up-trials.csv"
    with open(saved.value.path(), newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["trial", "val accuracy", "status"]
    assert [row[:3] for row in rows] == [["00003", str(1 - abs(3.5 / 20 - 0.3)), "completed"]]  # exact values


def test_figures_follow_a_change_of_the_color_scheme(open_tab: Open, report: str) -> None:
    tab = open_tab(report, color_scheme="light")
    paper = f"{CURVES}.layout?.paper_bgcolor"
    tab.page.query_selector("[data-figure='curves']").scroll_into_view_if_needed()
    tab.page.wait_for_function(f"{paper} === '#ffffff'")
    tab.page.emulate_media(color_scheme="dark")
    tab.page.wait_for_function(f"{paper} === '#0d1117'")
    assert tab.errors == []


def test_report_of_a_run_without_rounds_has_its_command_to_copy(open_tab: Open, tmp_path: Path) -> None:
    tab = open_tab(written(tmp_path, page([], options=["--out", "my run"])))
    assert tab.draw_all() == []
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.page.click("#copy")
    tab.page.wait_for_function("document.getElementById('copy').textContent === 'Copied'")
    assert tab.page.evaluate("navigator.clipboard.readText()") == "python -m graftpop.tune --out 'my run'"
    assert tab.errors == []


def test_large_study_is_drawn(open_tab: Open, tmp_path: Path) -> None:
    trials, rounds = many_trials(1000, 20)
    html = page(trials, rounds, grafts_of("00300", num_rounds=200, num_peers=8, sites=[f"conv{i}" for i in range(33)]))
    assert len(html) < 15e6
    tab = open_tab(written(tmp_path, html))
    assert tab.draw_all()[:5] == ["curves", "history", "slices", "parallel", "importances"]
    assert tab.texts("[data-counts='trials']") == ["1000 of 1000"]
    assert tab.errors == []


def test_figure_that_needs_webgl_is_a_sentence_without_it(open_tab: Open, report: str) -> None:
    without = """
        const withWebGL = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...options) {
          return kind.includes("webgl") ? null : withWebGL.call(this, kind, ...options);
        };
    """
    parallel = {}
    for script in ("", without):
        tab = open_tab(report, script)
        assert "parallel" in tab.draw_all()
        parallel[script] = tab.page.query_selector("[data-figure='parallel'] .plot")
        assert tab.errors == []
    assert "WebGL" not in parallel[""].inner_text()
    assert "WebGL" in parallel[without].inner_text()
    assert parallel[without].bounding_box()["height"] < 50 < parallel[""].bounding_box()["height"]


def test_single_trial_with_one_peer_is_drawn(open_tab: Open, tmp_path: Path) -> None:
    tab = open_tab(written(tmp_path, page([trial("one")], rounds_of("one", num_peers=1))))
    assert tab.draw_all() == ["curves", "trial/TRIAL/peers"]
    assert tab.errors == []
