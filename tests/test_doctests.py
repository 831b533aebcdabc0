"""The examples in docstrings give the shown output."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "graftpop").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


def test_some_docstrings_have_examples() -> None:
    assert len(MODULES) >= 4


@pytest.mark.parametrize("module", MODULES)
def test_examples_give_the_shown_output(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
