"""The examples of docs/extending.md run as they are printed."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from user_parts import Net, digits

import graftpop
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models, user_code_names

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
SMALL = {
    "data": {"name": "digits", "max_train_images": 200},
    "model": {"name": "python:network_makers.TwoSites"},
    "training": {"epochs": 1},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


MODULES = [block for block in blocks("python") if block.startswith("# mine.py")]
SPACES = [yaml.safe_load(block) for block in blocks("yaml")]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the examples, in the working directory."""
    (tmp_path / "mine.py").write_text("\n".join(MODULES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    del sys.modules["mine"]


def test_every_example_is_short() -> None:
    assert len(MODULES) == len(SPACES) == 3
    assert max(len(block.splitlines()) for block in MODULES) < 20


@pytest.mark.parametrize("tree", SPACES, ids=lambda tree: "-".join(tree))
def test_space_passes_the_checks_and_names_its_user_code(tree: dict[str, Any], mine: ModuleType) -> None:
    space = parse_space({**SMALL, **tree})
    assert bool(check_data_and_models(space).sites) == ("graft" in tree)
    assert [name for name in user_code_names(space) if "mine." in name]


def test_population_takes_the_parts_as_objects(mine: ModuleType) -> None:
    train, test = digits()
    shared: dict[str, Any] = {"classes": list("0123456789"), "training": {"epochs": 2, "batch_size": 64}}
    by_rule = graftpop.Population(Net, train, test, exchange=mine.Pull, population={"num_peers": 3}, **shared)
    first, last = by_rule.run()
    assert [row["diagnostic"] for row in first.diagnostics].count("pull_distance") == 3
    assert "pull_distance" not in [row["diagnostic"] for row in last.diagnostics]
    graft = {"alpha": mine.keep_the_better, "criterion": mine.spread}
    grafted = graftpop.Population(Net, train, test, graft=graft, **shared)
    assert {round(alpha, 6) for alpha in next(grafted.run()).grafts["alpha"]} == {0.1, 0.9}
