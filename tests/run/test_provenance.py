"""The provenance of a run: command, seed, versions, commit and hardware."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import graftpop
from graftpop.run.provenance import run_provenance, utc_now


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
    assert provenance["platform"].endswith(platform.machine())


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
