"""A study run from the command line, on this machine or on several nodes, with parts that can be killed."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from nodes import Node, Nodes, nodes_of, process_inside

__all__ = [
    "KINDS",
    "KINDS_ON_NODES",
    "TITLES",
    "Study",
    "has_namespaces",
    "read_rows",
    "rounds_done",
    "started",
    "timed_trial",
]

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("peer", "trial", "driver")
KINDS_ON_NODES = (*KINDS, "node")
TITLES = {
    "peer": re.compile(r"ray::(PeerActor|\d+/peer-)"),  # idle, or in a call
    "trial": re.compile(r"ray::Population\b"),
}
"""Process titles by kind."""
POLL_S = 0.02


class Study:
    """One study, with one driver after another if drivers are killed.

    Args:
        space: search space, in YAML.
        folder: folder for this study; it is created.
        nodes: cluster for the study, with the driver on its head; None: each driver starts Ray on this machine.

    Attributes:
        run: folder of the run.
        driver: process of the command that runs the current driver.
        nodes: nodes that can be killed: all but the head.
    """

    def __init__(self, space: str, folder: Path, nodes: Nodes | None) -> None:
        folder.mkdir(parents=True)
        (folder / "space.yaml").write_text(space)
        self.run = folder / "run"
        self.nodes: list[Node] = nodes.nodes[1:] if nodes else []
        self._cluster = nodes
        self._first = ["--space", str(folder / "space.yaml"), "--out", str(self.run)]
        self._start(self._first)

    def _start(self, options: list[str]) -> None:
        command = [sys.executable, "-m", "graftpop.tune", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if self._cluster:
            command = self._cluster.head.command(*command, "--address", "auto")
            environment = self._cluster.environment
        with (self.run.parent / "log").open("ab") as log:
            self.driver = subprocess.Popen(
                command,
                cwd=self.run.parent,
                env=environment | {"PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._driver_id = process_inside(self.driver) if self._cluster else self.driver.pid

    def resume(self) -> None:
        """Resume the run, or start it if the last driver ended before it wrote one."""
        is_run = all((self.run / name).exists() for name in ("space.yaml", "run.json", "tune"))
        if not is_run and self.run.exists():
            shutil.rmtree(self.run)
        self._start(["--resume", str(self.run)] if is_run else self._first)

    def add_node(self) -> None:
        """Add a node of one CPU to the cluster."""
        assert self._cluster
        self.nodes.append(self._cluster.add_node(1))

    def processes(self, kind: str, node: Node | None = None) -> list[psutil.Process]:
        """Return the current processes of a kind, on one node or on all.

        Raises:
            psutil.NoSuchProcess: the driver or the node has ended.
        """
        if kind == "driver":
            return [psutil.Process(self._driver_id)]
        nodes = [node] if node else [self._cluster.head, *self.nodes] if self._cluster else []
        roots = [each.holder for each in nodes] if nodes else [self._driver_id]
        found = []
        for root in roots:
            for process in psutil.Process(root).children(recursive=True):
                try:
                    title = " ".join(process.cmdline())
                except psutil.Error:  # it has ended
                    continue
                if TITLES[kind].match(title):
                    found.append(process)
        return found

    def kill(self, kind: str, rng: random.Random) -> str | None:
        """Kill a random process or node of a kind; return a description of it, or None if there is none now."""
        try:
            if kind == "node":
                return self.kill_node(rng.choice(self.nodes))
            victims = self.processes(kind)
            if not victims:
                return None
            victim = rng.choice(sorted(victims, key=lambda process: process.pid))
            victim.kill()
        except psutil.NoSuchProcess:  # it has just ended
            return None
        return f"process {victim.pid}"

    def kill_node(self, node: Node) -> str:
        """Kill everything on a node at once, its address included; return a description of the node."""
        self.nodes.remove(node)
        node.kill()
        return f"node {node.address}"

    def log(self) -> str:
        """Return the last 3000 characters that the drivers printed."""
        return (self.run.parent / "log").read_text(errors="replace")[-3000:]

    def wait_for_rounds(self, num_rounds: int, timeout_s: float) -> bool:
        """Wait until the trials have recorded `num_rounds` rounds or the driver has ended; return False on timeout."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if rounds_done(self.run) >= num_rounds or self.driver.poll() is not None:
                return True
            time.sleep(POLL_S)
        return False


@contextmanager
def started(space: str, folder: Path, *cpus: int, environment: dict[str, str] | None = None) -> Iterator[Study]:
    """Run a study inside a block; kill its driver and nodes at the end of the block.

    Args:
        space: search space, in YAML.
        folder: folder for this study.
        cpus: number of CPUs of each node of a new cluster, head first; without any, the study runs on this machine.
        environment: additional environment variables of all nodes.
    """
    with ExitStack() as stack:
        nodes = stack.enter_context(nodes_of(*cpus, environment=environment)) if cpus else None
        study = Study(space, folder, nodes)
        try:
            yield study
        finally:
            study.driver.kill()
            study.driver.wait()


def timed_trial(space: str, folder: Path, timeout_s: float) -> list[float]:
    """Run a study of one trial from the command line, in `folder / "run"`, and return its times, in Unix seconds.

    Args:
        space: search space, in YAML.
        folder: folder of the study.
        timeout_s: longest duration.

    Returns:
        When the command began, when the trial wrote its records at its start and after each round, and when the command
        ended.
    """
    file, run = folder / "space.yaml", folder / "run"
    file.write_text(space)
    rounds = run / "tune" / "records" / "00000.rounds.parquet"
    times = [time.time()]
    driver = subprocess.Popen(
        [sys.executable, "-m", "graftpop.tune", "--space", str(file), "--out", str(run)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while driver.poll() is None:
        if time.time() - times[0] > timeout_s:
            driver.kill()
            raise SystemExit(f"studies.py: the study did not end within {timeout_s:g} s")
        if rounds.exists() and rounds.stat().st_mtime > times[-1]:
            times.append(rounds.stat().st_mtime)
        time.sleep(POLL_S)
    if driver.returncode:
        raise SystemExit(f"studies.py: the study ended with {driver.returncode}")
    return [*times, time.time()]


def has_namespaces() -> bool:
    """Return whether this machine permits the namespaces that nodes need."""
    with nodes_of() as nodes:
        return nodes.separate


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table that may be replaced meanwhile; an empty list if it does not exist yet."""
    if not path.exists():
        return []
    with path.open("rb") as file:  # one open file stays consistent if the path is replaced
        return list(pq.read_table(file).to_pylist())


def rounds_done(run: Path) -> int:
    """Return the number of rounds that all trials have recorded together."""
    return sum(
        len({row["round"] for row in read_rows(path)}) for path in (run / "tune" / "records").glob("*.rounds.parquet")
    )
