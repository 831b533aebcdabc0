"""Nodes that die during a study: peers restart elsewhere, the others continue, or the trial waits for a node."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from nodes import SEEN_DEAD_SOON, Node, Nodes, nodes_of
from safetensors.torch import load_file
from timings import untimed

from graftpop.cli.exit_codes import INTERRUPTED

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(400)]

SPACE = """
name: loss
data: {name: digits}
model: {name: resnet8}
training: {epochs: 24, batch_size: 64, schedule: cosine, precision: float32}
population: {num_peers: 2}
graft: {A: 0.4}
tune: {sampler: grid}
"""


IMPATIENT = """
from graftpop.cluster import room
from graftpop.cli.exit_codes import run_command
from graftpop.tune import tune

room.ANNOUNCED_AFTER_S, room.ROOM_TIMEOUT_S = 4.0, 20.0
run_command(tune)
"""
"""`python -m graftpop.tune` with shorter waits for room."""
LEADER = re.compile(r"ray::Population\b")
"""Title of a process that leads a trial."""
HOG = """
import sys, time
block = bytearray(int(sys.argv[1]))
block[::4096] = b"x" * len(block[::4096])
time.sleep(2)
"""


@contextmanager
def study(
    nodes: Nodes, name: str, *options: str, program: tuple[str, str] = ("-m", "graftpop.tune")
) -> "Iterator[tuple[Path, subprocess.Popen[str]]]":
    """Start a study on the head's node, or resume it."""
    (nodes.shared / "space.yaml").write_text(SPACE)
    run = nodes.shared / name
    task = ["--resume", str(run)] if run.exists() else ["--space", "space.yaml", "--out", str(run)]
    command = nodes.head.command(sys.executable, *program, *task, "--address", nodes.address, *options)
    with subprocess.Popen(
        command, env=nodes.environment, cwd=nodes.shared, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield run, process
        finally:
            process.kill()


def rounds_of(run: Path) -> list[dict[str, Any]]:
    file = run / "tune" / "records" / "00000.rounds.parquet"
    if not file.exists():
        return []
    with file.open("rb") as stream:  # the path may get a newer file meanwhile
        return list(pq.read_table(stream).to_pylist())


def wait_for_round(run: Path, wanted: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while max((row["round"] for row in rounds_of(run)), default=0) < wanted:
        assert time.monotonic() < deadline, f"no round {wanted} was recorded within 120 s"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def leader_on(node: Node) -> psutil.Process:
    """Return the process that leads a trial on a node; Ray changes titles with every call."""
    assert node.holder
    while True:
        for process in psutil.Process(node.holder).children(recursive=True):
            with suppress(psutil.Error):  # it has ended
                if LEADER.match(" ".join(process.cmdline())):
                    return process


def output_of(process: "subprocess.Popen[str]", exit_code: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == exit_code, output
    return output


def untimed_rows(run: Path, table: str) -> list[dict[str, Any]]:
    return [*map(untimed, pq.read_table(run / f"{table}.parquet").to_pylist())]


def events(run: Path) -> list[tuple[int, str]]:
    return [(row["peer"], row["event"]) for row in pq.read_table(run / "events.parquet").to_pylist()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same study without losses."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "space.yaml").write_text(SPACE)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "graftpop.tune",
            "--space",
            str(folder / "space.yaml"),
            "--out",
            str(folder / "run"),
            "--set",
            "resources.cpus_per_peer=0.5",
        ],
        check=True,
        timeout=240,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    return folder / "run"


def test_study_survives_node_deaths_with_the_same_bits(undisturbed: Path) -> None:
    """Two peers on three nodes of one CPU: every node but the head dies in turn, and a new one joins."""
    with nodes_of(1, 1, 1, environment=SEEN_DEAD_SOON) as nodes, study(nodes, "run") as (run, process):
        wait_for_round(run, 2, process)
        nodes.nodes[1].kill()
        wait_for_round(run, 8, process)
        replacement: Node = nodes.add_node(1)
        assert replacement.address
        nodes.nodes[2].kill()
        output = output_of(process)
        assert "completed" in output
        for table in ("rounds", "grafts"):
            assert untimed_rows(run, table) == untimed_rows(undisturbed, table)
        got, expected = (load_file(one / "best" / "model.safetensors") for one in (run, undisturbed))
        assert all(tensor.equal(expected[name]) for name, tensor in got.items())


def test_study_starts_beside_an_undetected_dead_node() -> None:
    with nodes_of(2, 1) as nodes:
        nodes.nodes[1].kill()
        with study(nodes, "run") as (_, process):
            assert "completed" in output_of(process)


def test_population_continues_without_a_peer_that_has_no_room() -> None:
    with (
        nodes_of(1, 1, environment=SEEN_DEAD_SOON) as nodes,
        study(nodes, "run", "--set", "population.min_peers=1", "--set", "population.replace_timeout_s=5") as (
            run,
            process,
        ),
    ):
        wait_for_round(run, 2, process)
        nodes.nodes[1].kill()
        output_of(process)
        recorded = events(run)
        left = {peer for peer, event in recorded if event == "left"}
        peers = {row["peer"] for row in rounds_of(run) if row["round"] == 24}
        assert len(left) == 1
        assert peers == {0, 1} - left


def test_trial_waits_for_a_node_and_resumes(undisturbed: Path) -> None:
    with (
        nodes_of(1, 1, environment=SEEN_DEAD_SOON) as nodes,
        study(nodes, "run", "--set", "population.replace_timeout_s=5") as (run, process),
    ):
        wait_for_round(run, 2, process)
        nodes.nodes[1].kill()
        time.sleep(20)
        assert process.poll() is None, process.communicate()
        nodes.add_node(1)
        output_of(process)
        for table in ("rounds", "grafts"):
            assert untimed_rows(run, table) == untimed_rows(undisturbed, table)


def test_trial_without_room_ends_while_others_complete_and_resumes() -> None:
    """Three peers find room on three nodes of one CPU, of which one dies for ever; two peers find it still."""
    peers = ("--set", "population.num_peers={grid: [3, 2]}", "--set", "population.replace_timeout_s=5")
    with nodes_of(1, 1, 1, environment=SEEN_DEAD_SOON) as nodes:
        with study(nodes, "run", *peers, program=("-c", IMPATIENT)) as (run, process):
            wait_for_round(run, 2, process)
            nodes.nodes[2].kill()
            output = output_of(process, INTERRUPTED)
        (announced,) = re.findall("^trial 0 .*waits for room.*$", output, re.MULTILINE)
        for part in ("3 processes of 1 CPU", "2 nodes, 2 CPU", "UTC"):
            assert part in announced
        assert pq.read_table(run / "trials.parquet")["status"].to_pylist() == ["interrupted", "completed"]
        nodes.add_node(1)
        with study(nodes, "run") as (_, process):
            output_of(process)
        assert pq.read_table(run / "trials.parquet")["status"].to_pylist() == ["completed", "completed"]


def test_memory_kills_are_losses(undisturbed: Path) -> None:
    """Another process fills the memory of the node for some seconds, in which Ray kills peers and leading processes."""
    memory = psutil.virtual_memory()
    kills = {"RAY_memory_usage_threshold": f"{memory.percent / 100 + 0.15:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    with nodes_of(2, environment=kills) as nodes, study(nodes, "run") as (run, process):
        wait_for_round(run, 2, process)
        subprocess.run([sys.executable, "-c", HOG, str(int(0.2 * memory.total))], check=True, timeout=60)
        output = output_of(process)
        lines = [line for line in output.splitlines() if "Ray's memory monitor" in line]
        assert any("resumes from its last round" in line for line in lines)
        assert all("training.batch_size" in line for line in lines)
        assert "Traceback" not in output
        assert untimed_rows(run, "rounds") == untimed_rows(undisturbed, "rounds")


def test_leader_that_no_longer_runs_is_replaced() -> None:
    """The limit is two minutes."""
    with nodes_of(2) as nodes, study(nodes, "run") as (run, process):
        if not nodes.separate:
            pytest.skip("needs namespaces")
        wait_for_round(run, 2, process)
        leader = leader_on(nodes.head)
        leader.send_signal(signal.SIGSTOP)
        output = output_of(process)
        assert "heartbeat" in output
        assert not leader.is_running()
        assert [(row["round"], row["peer"]) for row in rounds_of(run)] == [
            (round_, peer) for round_ in range(1, 25) for peer in (0, 1)
        ]
