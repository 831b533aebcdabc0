"""Signals at the command line keep completed rounds, and --resume continues from them, even with damaged files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

SPACE = """
name: interrupted
data: {name: digits, max_train_images: 400}
model: {name: resnet8}
training: {epochs: 16, batch_size: 64, schedule: cosine}
population: {num_peers: 2, peers_per_actor: 2}
resources: {cpus_per_peer: 0.5}
graft: {A: {choice: [0.2, 0.4]}}
tune: {num_samples: 1}
"""


def rounds_recorded(run: Path) -> int:
    records = run / "tune" / "records" / "00000.rounds.parquet"
    if not records.exists():
        return 0
    with records.open("rb") as file:  # pyarrow opens a path twice, and it may be replaced in between
        return max(pq.read_table(file)["round"].to_pylist(), default=0)


@contextmanager
def driver(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `graftpop.tune` in a folder within the block."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "graftpop.tune", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def wait_for_rounds(process: "subprocess.Popen[str]", run: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while rounds_recorded(run) < number:
        assert time.monotonic() < deadline, f"{number} rounds were not recorded within 120 s"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def check_interrupted(process: "subprocess.Popen[str]", run: Path, code: int) -> None:
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    assert "stopping" in output
    assert f"python -m graftpop.tune --resume {run}" in output
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


def test_interrupted_and_damaged_run_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    run = tmp_path / "run"
    with driver(tmp_path, "--space", "space.yaml", "--out", str(run)) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("run  "):  # Ray is there, and no trial
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")  # Ray would write a dump of its stack
    assert f"python -m graftpop.tune --resume {run}" in output

    with driver(tmp_path, "--resume", str(run)) as process:
        wait_for_rounds(process, run, 2)  # the second begins when the first one's checkpoint is written
        process.send_signal(signal.SIGINT)
        check_interrupted(process, run, 130)
    assert pq.read_table(run / "trials.parquet")["status"].to_pylist() == ["interrupted"]
    num_rows = pq.read_table(run / "rounds.parquet").num_rows
    assert 0 < num_rows < 32
    assert (run / "best" / "model.safetensors").exists()

    for name in ("run.json", "tune/trials.json"):
        os.truncate(run / name, 20)
    with driver(tmp_path, "--resume", str(run)) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = errors.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{run}/run.json", f"{run}/tune/trials.json"]
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    rounds = pq.read_table(run / "rounds.parquet").to_pylist()
    expected = [(round_, peer) for round_ in range(1, 17) for peer in (0, 1)]
    assert [(row["round"], row["peer"]) for row in rounds] == expected  # test_object_store resumes a finished run


@pytest.mark.chaos
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_to_a_running_study_is_recorded(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A terminal that closes signals all processes of its group; Ray's must outlive the driver."""
    (tmp_path / "space.yaml").write_text(SPACE)
    run = tmp_path / "run"
    with driver(tmp_path, "--space", "space.yaml", "--out", str(run)) as process:
        wait_for_rounds(process, run, 2)
        if number == signal.SIGHUP:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.send_signal(number)
        process.send_signal(number)
        check_interrupted(process, run, code)


def ray_processes(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Wait until a driver has started processes of Ray, and return them."""
    driver = psutil.Process(process.pid)
    while not any(child.name() == "gcs_server" for child in driver.children()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return driver.children(recursive=True)


def check_nothing_is_left(processes: list[psutil.Process], run: Path) -> None:
    assert not run.exists()
    assert psutil.wait_procs(processes, timeout=30)[1] == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.chaos),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.chaos),
    ],
)
def test_signal_while_ray_starts_and_data_is_checked_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    run = tmp_path / "run"
    with driver(tmp_path, "--space", "space.yaml", "--out", str(run)) as process:
        of_ray = ray_processes(process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "interrupted\n")
    assert "dashboard" not in output
    check_nothing_is_left(of_ray, run)


def test_wrong_data_found_while_ray_starts_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    run = tmp_path / "run"
    wrong = "data.max_train_images=5000"
    with driver(tmp_path, "--space", "space.yaml", "--out", str(run), "--set", wrong) as process:
        of_ray = ray_processes(process)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch(f"error: --set {wrong}: data.max_train_images: .*\n", errors)
    assert "dashboard" not in output
    check_nothing_is_left(of_ray, run)


@pytest.mark.chaos
def test_sigterm_while_a_study_waits_for_ray_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    run = tmp_path / "run"
    with driver(tmp_path, "--space", "space.yaml", "--out", str(run)) as process:
        while not (run / "space.yaml").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(2)  # the checks of trackers and storage are over
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert f"python -m graftpop.tune --resume {run}" in output
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_driver_killed_while_it_starts_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE.replace("epochs: 16", "epochs: 1"))
    for tenths in (20, 40, 50, 60, 80):
        run = tmp_path / f"run-{tenths}"
        with driver(tmp_path, "--space", "space.yaml", "--out", str(run)) as process:
            time.sleep(tenths / 10)
            process.kill()
        begin = (
            ("--resume", str(run)) if (run / "space.yaml").exists() else ("--space", "space.yaml", "--out", str(run))
        )
        with driver(tmp_path, *begin) as process:
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert pq.read_table(run / "trials.parquet")["status"].to_pylist() == ["completed"]
