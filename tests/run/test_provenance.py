"""The provenance of a run: command, seed, versions, commit and hardware."""

import json
import os
import platform
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import graftpop
from graftpop.__main__ import app
from graftpop.run.provenance import read_provenance, run_provenance, utc_now
from graftpop.run.run_folder import RunFolder


def test_provenance_has_command_seed_versions_and_hardware_as_json() -> None:
    provenance = run_provenance(["--space", "digits.yaml"], seed=7)
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["command"] == ["python", "-m", "graftpop.tune", "--space", "digits.yaml"]
    assert provenance["seed"] == 7
    assert provenance["versions"]["python"] == platform.python_version()
    for package in ("ray", "torch", "torchvision", "optuna", "pyarrow", "numpy"):
        assert provenance["versions"][package] == version(package)
    assert "graftpop" in provenance["versions"]
    hardware = provenance["hardware"]
    assert hardware["cores"] == len(os.sched_getaffinity(0))
    assert hardware["memory_bytes"] > 2**28
    assert isinstance(hardware["processor"], str)
    assert isinstance(hardware["gpus"], list)
    assert hardware["auto_precision"] in ("float32", "bfloat16")
    assert provenance["platform"].endswith(platform.machine())


def test_recorded_command_is_masked_and_runs_after_copying(tmp_path: Path) -> None:
    (tmp_path / "a space.yaml").write_text("data: {name: digits}\nmodel: {name: resnet8}\ngraft: {}")
    options = ["--space", str(tmp_path / "a space.yaml"), "--set", "graft.A={uniform: [0.25, 1]}"]
    secret = ["--set", "tune.optuna_storage=postgresql://me:1234@host/db", "--out", "s3://me:1234@bucket/run"]
    command = run_provenance(["tune", *options, *secret], seed=0)["command"]
    assert command == run_provenance([*options, *secret], seed=0)["command"]
    assert "1234" not in str(command)
    copied = shlex.split(shlex.join(run_provenance(["tune", *options], seed=0)["command"]))
    assert copied[:3] == ["python", "-m", "graftpop.tune"]
    result = CliRunner().invoke(app, ["tune", *copied[3:], "--dry-run"])
    assert result.exit_code == 0
    assert "graft.A = 0." in result.stdout


def test_start_time_is_in_utc() -> None:
    started = datetime.fromisoformat(run_provenance([], seed=0)["started"])
    assert started.utcoffset() == timedelta(0)
    assert abs(utc_now() - started) < timedelta(minutes=1)
    assert utc_now().tzinfo is UTC


def test_commit_is_of_the_packages_repository() -> None:
    package = Path(graftpop.__file__).parent
    git = subprocess.run(["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    provenance = run_provenance([], seed=0)["git"]
    if git.returncode:
        assert provenance is None
    else:
        assert provenance["commit"] == git.stdout.strip()
        assert isinstance(provenance["dirty"], bool)


def test_provenance_reads_back_with_further_entries(tmp_path: Path) -> None:
    written = run_provenance([], seed=0) | {"status": "finished", "more": [1]}
    (tmp_path / "run.json").write_text(json.dumps(written))
    assert read_provenance(RunFolder(str(tmp_path))) == written


@pytest.mark.parametrize(
    "content", [None, b"", b'{"command": ["pyth', b"{}", b"[]", b"3", b"[" * 10**5, b"\xff", b'{"hardware": 3}']
)
def test_absent_or_damaged_provenance_is_empty_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    assert read_provenance(RunFolder(str(tmp_path))) == {}
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}/run.json: ")
    assert "\n" not in line
