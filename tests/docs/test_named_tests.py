"""The tests that the documents name exist."""

import re
from pathlib import Path

import pytest

from graftpop.run.run_folder import RunFolder
from graftpop.settings.task import METRICS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_test_exists(document: Path, tmp_path: Path) -> None:
    run = str(tmp_path)
    columns = {
        column for metrics in METRICS.values() for column in RunFolder(run, metrics).read_table("trials").column_names
    }  # test_accuracy is a column
    text = document.read_text(encoding="utf-8")
    defined = {name for source in TESTS.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    named = set(re.findall(r"(?<!timm)[`:](test_\w+)`", text))  # timm:test_vit is a network
    assert named - columns <= defined
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^def {name}\(", TESTS[ROOT / path], re.MULTILINE), (path, name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_section_of_a_test_file_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(r"`(tests/[\w/.]*)", text):
        assert (ROOT / path).exists(), path
    for path, part in re.findall(r"`(tests/[\w/]+\.py)`, from `(# [\w ]+)` on", text):
        assert f"\n{part}\n" in TESTS[ROOT / path], (path, part)
