"""docs/architecture.md lists the layers in the enforced order, and existing files."""

import re
from pathlib import Path

from layers import LAYERS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_layers_are_listed_in_the_enforced_order() -> None:
    rows = re.findall(r"^\| ((?:`\w+(?:\.py|/)` ?)+) \|", section("Layers"), re.MULTILINE)
    listed = [{name.removesuffix(".py").strip("/") for name in re.findall(r"`([\w./]+)`", row)} for row in rows]
    assert listed == [set(layer) for layer in LAYERS]


def test_behaviors_are_located_in_existing_files() -> None:
    rows = re.findall(r"^\| ([^|`]+|`[^|]+) \| (`graftpop/[^|]+) \|$", section("Where is ...?"), re.MULTILINE)
    assert len(rows) >= 20
    paths = [path for _, files in rows for path in re.findall(r"`([^`]+)`", files)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_named_file_exists() -> None:
    names = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", TEXT)
    missing = [name for name in names if not ((ROOT / "graftpop" / name).exists() or (ROOT / name).exists())]
    assert sorted(set(missing) - {"tune/records/", "best/"}) == []
