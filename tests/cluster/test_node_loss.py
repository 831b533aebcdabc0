"""Nodes that die while a study runs: its peers come back elsewhere, or the others go on, or it waits for a node."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from nodes import SEEN_DEAD_SOON, Node, Nodes, nodes_of
from safetensors.torch import load_file

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(400)]

SPACE = """
name: loss
data: {name: digits}
model: {name: resnet8}
training: {epochs: 24, batch_size: 64, schedule: cosine, precision: float32}
population: {num_peers: 2}
graft: {A: 0.4}
tune: {search: grid}
"""


@contextmanager
def study(nodes: Nodes, name: str, *options: str) -> "Iterator[tuple[Path, subprocess.Popen[str]]]":
    """Start a study on the head's node."""
    (nodes.shared / "space.yaml").write_text(SPACE)
    run = nodes.shared / name
    command = nodes.head.command(
        sys.executable,
        "-m",
        "graftpop.tune",
        "--space",
        "space.yaml",
        "--out",
        str(run),
        "--address",
        nodes.address,
        *options,
    )
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
    with file.open("rb") as stream:  # by one open file: the path may get a newer one meanwhile
        return list(pq.read_table(stream).to_pylist())


def wait_for_round(run: Path, wanted: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while max((row["round"] for row in rounds_of(run)), default=0) < wanted:
        assert time.monotonic() < deadline, f"no round {wanted} was recorded within 120 s"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def end(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def untimed(run: Path, table: str) -> list[dict[str, Any]]:
    timed = {"images_per_s", "train_s", "exchange_s"}
    return [
        {key: value for key, value in row.items() if key not in timed}
        for row in pq.read_table(run / f"{table}.parquet").to_pylist()
    ]


def events(run: Path) -> list[tuple[int, str]]:
    return [(row["peer"], row["event"]) for row in pq.read_table(run / "events.parquet").to_pylist()]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study, which loses nothing."""
    folder = tmp_path_factory.mktemp("calm")
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


def test_after_the_death_of_a_node_a_study_goes_on_elsewhere_with_the_same_bits(calm: Path) -> None:
    """Three nodes of a CPU each, of which two peers need two; each but the head dies in turn, and one comes."""
    with nodes_of(1, 1, 1, environment=SEEN_DEAD_SOON) as nodes, study(nodes, "run") as (run, process):
        wait_for_round(run, 2, process)
        nodes.nodes[1].kill()
        wait_for_round(run, 8, process)
        replacement: Node = nodes.add_node(1)
        assert replacement.address
        nodes.nodes[2].kill()
        output = end(process)
        assert "completed" in output
        for table in ("rounds", "grafts"):
            assert untimed(run, table) == untimed(calm, table)
        got, expected = (load_file(one / "best" / "model.safetensors") for one in (run, calm))
        assert all(tensor.equal(expected[name]) for name, tensor in got.items())


def test_a_study_starts_before_the_cluster_has_noticed_that_a_node_is_gone() -> None:
    with nodes_of(2, 1) as nodes:
        nodes.nodes[1].kill()
        with study(nodes, "run") as (_, process):
            assert "completed" in end(process)


def test_where_there_is_no_room_for_a_peer_the_others_may_go_on_without_it() -> None:
    with (
        nodes_of(1, 1, environment=SEEN_DEAD_SOON) as nodes,
        study(nodes, "run", "--set", "population.min_peers=1", "--set", "population.replace_timeout_s=5") as (
            run,
            process,
        ),
    ):
        wait_for_round(run, 2, process)
        nodes.nodes[1].kill()
        end(process)
        told = events(run)
        left = {peer for peer, event in told if event == "left"}
        peers = {row["peer"] for row in rounds_of(run) if row["round"] == 24}
        assert len(left) == 1
        assert peers == {0, 1} - left


def test_where_all_peers_are_needed_a_trial_waits_for_a_node_and_goes_on_from_its_last_round(calm: Path) -> None:
    with (
        nodes_of(1, 1, environment=SEEN_DEAD_SOON) as nodes,
        study(nodes, "run", "--set", "population.replace_timeout_s=5") as (run, process),
    ):
        wait_for_round(run, 2, process)
        nodes.nodes[1].kill()
        time.sleep(20)
        assert process.poll() is None, process.communicate()
        nodes.add_node(1)
        end(process)
        for table in ("rounds", "grafts"):
            assert untimed(run, table) == untimed(calm, table)
