"""docs/methods/ has a page per method: formula, picture, settings that load, purpose, cost and source."""

import re
import runpy
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import graftpop
from graftpop.settings import Settings
from graftpop.space import parse_space
from graftpop.space.keys import known_keys

ROOT = Path(__file__).parents[2]
PAGES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs" / "methods").glob("*.md"))}
INDEX = PAGES.pop("index")
MEASURING = {"comparisons", "controls", "criteria", "diagnostics"}
"""Pages about measurements and scores; all others describe a method."""
DRAWING = ROOT / "docs" / "pictures" / "draw.py"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def sections(text: str) -> dict[str, str]:
    titles = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(titles[1::2], titles[2::2], strict=True))


def test_index_links_every_page() -> None:
    assert set(re.findall(r"\]\((\w+)\.md[)#]", INDEX)) == set(PAGES)


@pytest.mark.parametrize("name", sorted(PAGES.keys() - MEASURING))
def test_method_has_formula_purpose_cost_keys_and_source(name: str) -> None:
    parts = sections(PAGES[name])
    assert blocks(parts["Formula"], "math")
    assert "| symbol | meaning |" in parts["Formula"]
    assert parts["When to use it"].strip()
    assert parts["Cost"].strip()
    assert "](../keys.md#" in parts["Keys"]
    assert "](../fidelity.md#" in parts["Source"]


@pytest.mark.parametrize("name", PAGES)
def test_settings_of_a_page_load(name: str) -> None:
    spaces = blocks(PAGES[name], "yaml")
    assert spaces
    for text in spaces:
        parse_space(yaml.safe_load(text), name)


@pytest.mark.parametrize("name", PAGES)
def test_named_keys_exist(name: str) -> None:
    sections = {key.partition(".")[0] for key in known_keys(Settings) if "." in key}
    named = {key for key in re.findall(r"`(\w+\.\w+)`", PAGES[name]) if key.partition(".")[0] in sections}
    assert named - set(known_keys(Settings)) <= {"diagnostics.parquet"}


def test_spaces_of_the_tutorial_load_and_its_settings_exist() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    first, comparison = (parse_space(yaml.safe_load(block), "tutorial") for block in blocks(text, "yaml"))
    assert (first.resolve().num_epochs, len(comparison.variants)) == (8, 2)
    assert set(re.findall(r"--set ([\w.]+)=", text)) <= set(known_keys(Settings))


def test_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: graftpop\.(\w+)$", page, re.MULTILINE))
    assert shown == set(graftpop.__all__) - {"__version__"}


def test_pictures_are_those_that_the_script_draws() -> None:
    """The bytes depend on the version of matplotlib."""
    pinned = re.search(r"^matplotlib==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    if version("matplotlib") != pinned[1]:
        pytest.skip(f"the pictures are those of matplotlib {pinned[1]}")
    script = runpy.run_path(str(DRAWING))
    for name in script["PICTURES"]:
        assert (DRAWING.parent / f"{name}.svg").read_text(encoding="utf-8") == script["svg"](name), name


def test_every_picture_is_shown_with_a_description() -> None:
    drawn = set(re.findall(r'^    "(\w+)": \w+,$', DRAWING.read_text(encoding="utf-8"), re.MULTILINE))
    assert drawn
    shown = re.findall(r"^!\[(.+)\]\(\.\./pictures/(\w+)\.svg\)$", "\n".join(PAGES.values()), re.MULTILINE)
    assert {name for _, name in shown} == drawn
