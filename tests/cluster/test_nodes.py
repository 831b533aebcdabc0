"""Studies on a real cluster of several nodes; faults of the cluster are reported quickly in one line.

Ray sees the nodes as separate machines; see `benchmarks/nodes.py`.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from data_makers import random_pixels, write_class_folders
from nodes import Machine, Node, Nodes, nodes_of

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.timeout(300)]

SPACE = """
name: nodes
data: {name: digits, max_train_images: 128}
model: {name: resnet8}
training: {epochs: 2, batch_size: 64}
population: {num_peers: {grid: [2, 3]}}
graft: {A: 0.4}
tune: {sampler: grid}
"""
ONE_TRIAL = ["--set", "population.num_peers={grid: [3]}"]
CLIENT = "ray://10.0.0.1:10001"
SOON_S = 20.0
"""Limit of a command that waits for nothing; starting Python and importing Ray takes most of it."""

PEERS = """
import json, sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print(json.dumps(sorted((actor["JobID"], actor["Address"]["NodeID"], actor["Address"]["IPAddress"])
                        for actor in ray._private.state.actors().values() if actor["ActorClassName"] == "PeerActor")))
"""
CHECK = """
import sys
from graftpop.cluster.connection import connect
from graftpop.cluster.nodes import check_nodes
from graftpop.errors import GraftpopError
from graftpop.space import load_space

try:
    with connect(sys.argv[1]):
        check_nodes(load_space(sys.argv[2], sys.argv[4:]), sys.argv[3])
except GraftpopError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three nodes of one CPU each, and a folder of class folders that only the first has."""
    with nodes_of(
        1,
        1,
        1,
        head_options=["--ray-client-server-port=10001", "--include-dashboard=true", "--dashboard-host=10.0.0.1"],
    ) as nodes:
        (nodes.shared / "space.yaml").write_text(SPACE)
        pixels = random_pixels(12, 8, 8)
        for part in ("train", "val", "test"):
            write_class_folders(nodes.head.own / "images" / part, {"cat": pixels[:6], "dog": pixels[6:]})
        yield nodes


@pytest.fixture
def separate(nodes: Nodes) -> Nodes:
    if not nodes.separate:
        pytest.skip("namespaces are not permitted here: all nodes share one address and one file system")
    return nodes


def tune(
    nodes: Nodes, run: str, address: str, *options: str, node: Node | Machine | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return nodes.run(
        sys.executable,
        "-m",
        "graftpop.tune",
        "--space",
        "space.yaml",
        "--out",
        str(nodes.shared / run),
        "--address",
        address,
        *options,
        timeout_s=200,
        node=node,
        environment=environment,
    )


def completed(nodes: Nodes, run: str) -> list[str]:
    return pq.read_table(nodes.shared / run / "trials.parquet")["status"].to_pylist()


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def peers_by_study(nodes: Nodes) -> dict[str, list[tuple[str, str]]]:
    """Return node and address of every peer so far, by study."""
    import json

    done = nodes.run(sys.executable, "-c", PEERS, nodes.address, timeout_s=60)
    assert done.returncode == 0, done.stderr
    studies: dict[str, list[tuple[str, str]]] = {}
    for job, node, address in json.loads(done.stdout.splitlines()[-1]):
        studies.setdefault(job, []).append((node, address))
    return studies


def test_peers_of_a_study_run_on_different_nodes(nodes: Nodes) -> None:
    before = set(peers_by_study(nodes))
    done = tune(nodes, "host-port", nodes.address)
    assert done.returncode == 0, done.stderr
    assert completed(nodes, "host-port") == ["completed", "completed"]
    rounds = pq.read_table(nodes.shared / "host-port" / "rounds.parquet").to_pylist()
    assert len(rounds) == 2 * (2 + 3)
    (study,) = set(studies := peers_by_study(nodes)) - before
    assert len(studies[study]) == 2 + 3
    assert len({node for node, _ in studies[study]}) == 3
    if nodes.separate:
        assert {address for _, address in studies[study]} == {node.address for node in nodes.nodes}


def test_auto_address_finds_the_cluster_and_collectives_cross_nodes(separate: Nodes) -> None:
    # each node's name resolves to its loopback, as on Debian: a server bound to that is unreachable
    space = SPACE.replace("graft: {A: 0.4}", "mutual: {exchange: logits}")
    (separate.shared / "mutual.yaml").write_text(space)
    done = tune(
        separate, "auto", "auto", "--space", "mutual.yaml", *ONE_TRIAL, "--set", "population.round_timeout_s=60"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert completed(separate, "auto") == ["completed"]


def test_client_may_dry_run_and_gets_the_submit_command(separate: Nodes) -> None:
    client = separate.add_machine()
    done = tune(separate, "client", CLIENT, "--dry-run", node=client)
    assert done.returncode == 0, done.stderr
    assert "3 nodes, 3 CPU, 0 GPU" in done.stdout
    message = error_of(tune(separate, "client", CLIENT, node=client))
    assert message.startswith(f"error: --address {CLIENT}: Ray Tune cannot drive a study through a Ray client")
    assert "ray job submit --address http://10.0.0.1:8265 --working-dir . -- python -m graftpop.tune" in message
    client.kill()


def test_job_is_submitted_from_outside_the_cluster(separate: Nodes, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(
        Path(separate.environment["PYTHONPATH"]) / "graftpop",
        work / "graftpop",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (work / "space.yaml").write_text(SPACE)
    client = separate.add_machine()
    submit = [
        "ray",
        "job",
        "submit",
        "--address",
        "http://10.0.0.1:8265",
        "--working-dir",
        str(work),
        "--",
        "python",
        "-m",
        "graftpop.tune",
        "--space",
        "space.yaml",
        "--out",
        str(separate.shared / "job"),
        "--address",
        "auto",
        *ONE_TRIAL,
    ]
    done = separate.run(*submit, timeout_s=200, node=client)
    assert done.returncode == 0, done.stdout + done.stderr
    assert completed(separate, "job") == ["completed"]
    refused = separate.run(*submit, timeout_s=60, node=client, environment={"RAY_AUTH_TOKEN": "wrong"})
    assert refused.returncode != 0
    assert "token is invalid" in refused.stderr
    client.kill()


@pytest.mark.parametrize(
    ("address", "environment", "rule"),
    [
        ("10.0.0.1:6379", {"RAY_AUTH_TOKEN": "wrong"}, "the cluster got no token or a wrong one"),
        (CLIENT, {"RAY_AUTH_TOKEN": "wrong"}, "the cluster got no token or a wrong one"),
        ("auto", {"RAY_AUTH_MODE": "disabled"}, "the cluster got no token or a wrong one"),
        (
            "auto",
            {"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"},
            "RAY_AUTH_MODE is token, but this machine has no token",
        ),
    ],
)
def test_wrong_or_missing_token_is_refused_quickly(
    separate: Nodes, address: str, environment: dict[str, Any], rule: str
) -> None:
    started = time.monotonic()
    message = error_of(tune(separate, "token", address, "--dry-run", **environment))
    assert time.monotonic() - started < SOON_S
    assert message.startswith(f"error: --address {address}: {rule}; export RAY_AUTH_MODE=token")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.99:6379", "No route to host"),
        ("10.0.0.1:6380", "Connection refused"),
        ("10.0.0.1:10001", r"the head's port is 6379 by default"),
        ("ray://10.0.0.1:6379", r"a client server's port is 10001 by default"),
    ],
)
def test_wrong_address_is_refused_quickly(separate: Nodes, address: str, reason: str) -> None:
    started = time.monotonic()
    message = error_of(tune(separate, "address", address, "--dry-run"))
    assert time.monotonic() - started < SOON_S
    assert message.startswith(f"error: --address {address}: ")
    assert reason in message


def test_machine_outside_the_cluster_is_refused_with_the_remedy(separate: Nodes) -> None:
    outside = separate.add_machine()
    started = time.monotonic()
    message = error_of(tune(separate, "outside", separate.address, "--dry-run", node=outside))
    assert time.monotonic() - started < SOON_S
    assert "this machine is not a node of that cluster; run `ray start --address=10.0.0.1:6379` here" in message
    outside.kill()


def check(nodes: Nodes, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return nodes.run(sys.executable, "-c", CHECK, nodes.address, "space.yaml", str(folder), *overrides, timeout_s=100)


def test_shared_folder_and_complete_data_pass_the_node_checks(nodes: Nodes) -> None:
    folder = nodes.shared / "checked"
    folder.mkdir()
    done = check(nodes, folder)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    # nodes with separate file systems have decoded a copy each
    caches = [node.own / "cache" / "graftpop" / "decoded" for node in nodes.nodes[1:]]
    assert all(list(cache.glob("digits-*")) for cache in caches)


def test_unshared_run_folder_is_refused_with_a_node(separate: Nodes) -> None:
    folder = separate.local / "run"
    (separate.head.own / "run").mkdir()
    message = error_of(check(separate, folder))
    assert message == (
        f"error: --out {folder}: all nodes must share the run folder; node 10.0.0.2 (one of 2) does "
        "not see it; choose a folder that they share, or a URI such as s3://bucket/run or gs://bucket/run"
    )
    assert list((separate.head.own / "run").iterdir()) == []


def test_node_without_the_data_is_named(separate: Nodes) -> None:
    folder = separate.shared / "no-data"
    folder.mkdir()
    settings: dict[str, Any] = {
        "data.name": "folder",
        "data.root": separate.local / "images",
        "data.max_train_images": 8,
        "training.batch_size": 4,
    }
    message = error_of(check(separate, folder, *(f"{key}={value}" for key, value in settings.items())))
    assert message.startswith(
        "error: data.name: every node needs its own copy of folder; node 10.0.0.2 (one of 2) "
        "reports data.root: must be a folder, got"
    )
    shutil.copytree(separate.head.own / "images", separate.nodes[1].own / "images")
    message = error_of(check(separate, folder, *(f"{key}={value}" for key, value in settings.items())))
    assert "; node 10.0.0.3 reports data.root" in message


def test_closed_cluster_leaves_no_files_or_processes() -> None:
    with nodes_of(1) as nodes:
        folder, environment = nodes.shared.parent, nodes.environment
        assert nodes.run("ray", "status", timeout_s=60).returncode == 0
    assert not folder.exists()
    token = environment["RAY_AUTH_TOKEN"].encode()
    assert not [number for number in filter(str.isdecimal, os.listdir("/proc")) if token in environment_of(number)]


def environment_of(process: str) -> bytes:
    try:
        return Path(f"/proc/{process}/environ").read_bytes()
    except OSError:  # it has ended
        return b""
