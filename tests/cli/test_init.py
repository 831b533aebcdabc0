"""`graftpop init`: the written space and its schema."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from commands import graftpop
from generators.settings_schema import section_of, settings_schema

from graftpop.space import load_space

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_space_is_small_and_passes_a_dry_run() -> None:
    assert graftpop("init").exit_code == 0
    space = load_space("space.yaml")
    assert space.domains.keys() == {"graft.A", "graft.c"}
    assert space.num_trials() == 4
    plan = graftpop("tune", "--space", "space.yaml", "--dry-run")
    assert plan.exit_code == 0, plan.stderr
    assert "study      4 trials of up to 4 rounds" in plan.stdout


def test_schema_is_written_beside_the_space_and_validates_it(empty_folder: Path) -> None:
    (empty_folder / "spaces").mkdir()
    assert graftpop("init", "spaces/mine.yml").exit_code == 0
    text = (empty_folder / "spaces/mine.yml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=mine.schema.json"
    assert "--space spaces/mine.yml" in text
    schema = json.loads((empty_folder / "spaces/mine.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(text))


def test_comments_describe_each_section() -> None:
    graftpop("init")
    text = Path("space.yaml").read_text(encoding="utf-8")
    schema = settings_schema()
    for name, node in schema["properties"].items():
        section = section_of(node, schema)
        if section is not None and name in yaml.safe_load(text):
            assert f"# {section['description']}\n{name}:\n  # " in text
        elif {"type": "null"} in node.get("anyOf", ()):
            assert name in text.partition("\n\n")[0]


@pytest.mark.parametrize("there", ["space.yaml", "space.schema.json"])
def test_existing_file_is_kept_and_nothing_is_written(there: str) -> None:
    Path(there).write_text("mine", encoding="utf-8")
    refused = graftpop("init")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert re.fullmatch(rf"error: {there}: .*; choose another FILE\n", refused.stderr)
    assert [path.read_text(encoding="utf-8") for path in Path().iterdir()] == ["mine"]


@pytest.mark.parametrize("file", [".", "/", ""])
def test_path_without_a_name_is_refused_in_one_line(file: str) -> None:
    refused = graftpop("init", file)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert re.fullmatch(r"error: [./]: .*\n", refused.stderr)
    assert not list(Path().iterdir())


def test_absent_folder_is_refused_in_one_line() -> None:
    refused = graftpop("init", "nowhere/space.yaml")
    assert refused.exit_code == 2
    assert re.fullmatch(r"error: nowhere/space\.schema\.json: .*No such file or directory.*\n", refused.stderr)


@pytest.mark.parametrize(
    ("argument", "printed", "large"),
    [("--help", "python -m graftpop.init", ["torch", "ray", "pydantic"]), ("mine.yaml", "mine.yaml", ["torch", "ray"])],
)
def test_module_is_the_same_command_without_large_imports(argument: str, printed: str, large: list[str]) -> None:
    program = (
        f"import runpy, sys\nsys.argv = ['init', {argument!r}]\n"
        "try:\n    runpy.run_module('graftpop.init', run_name='__main__')\n"
        f"finally:\n    assert not set({large!r}) & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert printed in ran.stdout
