"""Ctrl-C at the command line keeps completed rounds, and --resume continues from them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

SPACE = """
name: interrupted
data: {name: digits, max_train_images: 800}
model: {name: resnet8}
training: {epochs: 16, batch_size: 64, schedule: cosine}
population: {num_peers: 2}
graft: {A: {choice: [0.2, 0.4]}}
tune: {num_samples: 1}
"""


def rounds_recorded(run: Path) -> int:
    if not (run / "rounds.parquet").exists():
        return 0
    with (run / "rounds.parquet").open("rb") as file:  # pyarrow opens a path twice, and it may be replaced in between
        return max(pq.read_table(file)["round"].to_pylist(), default=0)


def test_run_interrupted_by_ctrl_c_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    run = tmp_path / "run"
    command = [sys.executable, "-m", "graftpop.tune"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--space", "space.yaml", "--out", str(run)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while rounds_recorded(run) < 2:  # the second begins when the first one's checkpoint is written
            assert time.monotonic() < deadline, "no two rounds were recorded within 120 s"
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"python -m graftpop.tune --resume {run}" in output
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert pq.read_table(run / "trials.parquet")["status"].to_pylist() == ["interrupted"]
    num_rows = pq.read_table(run / "rounds.parquet").num_rows
    assert 0 < num_rows < 32
    assert (run / "best" / "model.safetensors").exists()

    resumed = subprocess.run(
        [*command, "--resume", str(run)],
        cwd=tmp_path,
        env=environment,
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    rounds = pq.read_table(run / "rounds.parquet").to_pylist()
    expected = [(round_, peer) for round_ in range(1, 17) for peer in (0, 1)]
    assert [(row["round"], row["peer"]) for row in rounds] == expected  # test_object_store resumes a finished run
