"""Imports cost memory and seconds in each process: peers, trials and commands import only what they need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPARISON = ROOT / "search_spaces" / "compare_digits.yaml"

ROUNDS = """
import json, sys
from graftpop.peer.peer import Peer
from graftpop.space import parse_space
settings = parse_space({"data": {"name": "digits", "max_train_images": 100}, "model": {"name": "resnet8"},
                        "training": {"epochs": 2}, "population": {"num_peers": 2}, "graft": {}}).resolve()
first, second = Peer(settings, 0), Peer(settings, 1)
for peer in (first, second):
    peer.train(1)
first.exchange(second.publish())
second.load(first.save())
second.train(1)
second.predict("test")
second.cost()
print(json.dumps(sorted(sys.modules)))
"""
NOT_FOR_TRAINING = ("ray", "torch._dynamo", "torch._inductor", "sympy", "torchvision", "timm", "pyarrow.parquet")

TRIAL = """
import json, sys
import graftpop.cluster.trainable
from graftpop.run.run_folder import RunFolder
print(json.dumps(sorted(sys.modules)))
"""

START_OF_TUNE = """
import json, sys
import ray.tune
from graftpop.cluster.tune_environment import callbacks_uncounted
with callbacks_uncounted():
    sys.modules["ray.tune.tune"].air_usage.tag_callbacks([ray.tune.Callback()])  # as `tune.run` does
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(program: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(ran.stdout))


def test_peer_on_digits_imports_no_unneeded_library() -> None:
    imported = imported_by(ROUNDS)
    assert "torch" in imported
    assert [name for name in NOT_FOR_TRAINING if name in imported] == []


def test_process_of_a_trial_does_not_import_torch() -> None:
    imported = imported_by(TRIAL)
    assert "graftpop.cluster.trainable" in imported
    assert "torch" not in imported


def test_start_of_tune_imports_no_tracker() -> None:
    imported = imported_by(START_OF_TUNE)
    assert "ray.air._internal.usage" in imported
    assert not {"mlflow", "wandb", "comet_ml", "aim"} & imported


def test_study_prints_a_line_at_once_and_imports_torch_after_all_checks_without_it(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held/space.yaml").touch()
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "graftpop.tune", "--space", str(COMPARISON), "--out", "held"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    lines = ran.stdout.splitlines()
    (checking,) = (number for number, line in enumerate(lines) if line.startswith("checking "))
    imported = [line.rpartition("|")[2].strip().split(".")[0] for line in lines]
    assert ran.returncode == 2
    assert lines[-1].startswith(f"error: --out {tmp_path}/held: ")
    assert "yaml" in imported[checking:]
    assert not {"yaml", "numpy", "pyarrow"} & set(imported[:checking])
    assert not {"torch", "ray", "torchvision", "optuna", "sklearn"} & set(imported)


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_help_of_a_command_imports_no_large_library(command: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"graftpop.{command}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in ran.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "ray", "torchvision", "numpy", "pyarrow", "onnx", "pydantic"}
