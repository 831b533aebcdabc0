"""The public surface: Python names, flags of each command, columns of each table, entries of a run folder."""

import inspect
import re
from pathlib import Path

import pytest
from public_names import COLUMNS, COMMANDS
from run_makers import small_settings, trained_run
from typer.testing import CliRunner

import graftpop
from graftpop.__main__ import app
from graftpop.metrics import ACCURACY
from graftpop.run.run_folder import RunFolder
from graftpop.run.trial_records import TrialRecords


def test_python_names_are_pinned() -> None:
    assert graftpop.__all__ == [
        "ExchangeRule",
        "Metric",
        "Population",
        "Task",
        "__version__",
        "graft",
        "load",
        "read_run",
        "trainable",
    ]
    assert all(hasattr(graftpop, name) for name in graftpop.__all__)
    assert list(inspect.signature(graftpop.Population).parameters) == [
        "network",
        "train",
        "test",
        "val",
        "val_fraction",
        "classes",
        "task",
        "exchange",
        "optimizer",
        "num_workers",
        "on_ray",
        "sections",
    ]
    public = {name for name in vars(graftpop.Population) if not name.startswith("_")}
    assert public == {"run", "network", "history", "plot"}


def test_commands_are_pinned() -> None:
    assert {command.name or command.callback.__name__ for command in app.registered_commands if command.callback} == {
        name for name in COMMANDS if name
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_a_command_are_pinned(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown.stdout)) == COMMANDS[command]


@pytest.mark.parametrize("table", COLUMNS)
def test_columns_of_a_table_are_pinned(table: str, tmp_path: Path) -> None:
    assert RunFolder(str(tmp_path)).read_table(table).column_names == COLUMNS[table]


def test_entries_of_a_run_folder_are_pinned(tmp_path: Path) -> None:
    """tests/docs/test_readme.py checks the folder that the command writes, with its report."""
    trained_run(tmp_path / "run", small_settings(training={"epochs": 1}, population={"num_peers": 2}))
    run = RunFolder(str(tmp_path / "run"))
    TrialRecords(run.of_trials("records"), "00000", [ACCURACY]).write()
    run.join_records(["00000"], now=True)
    run.write_best((next((tmp_path / "run/tune/checkpoints/00000").glob("*/peer-0.*"))).read_bytes(), {})
    with run.locked():
        entries = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert entries == {
        "space.yaml",
        "run.json",
        "trials.parquet",
        *(f"{name}.parquet" for name in COLUMNS if name != "trials"),
        *(f"best/{name}" for name in ("config.json", "metrics.json", "model.safetensors")),
        "tune/.lock",
        *(f"tune/records/00000.{name}.parquet" for name in COLUMNS if name != "trials"),
        *(
            f"tune/checkpoints/00000/round-000001/{name}"
            for name in ("population.json", "peer-0.safetensors", "peer-1.safetensors")
        ),
    }
