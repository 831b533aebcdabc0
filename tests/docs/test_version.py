"""The version is the same in the package, the changelog and the citation file."""

import re
from pathlib import Path

import yaml

from graftpop import __version__

ROOT = Path(__file__).parents[2]


def test_changelog_begins_with_the_package_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_citation_has_the_package_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
