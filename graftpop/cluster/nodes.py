"""Checks of every node before a study starts: it shares the run folder and has the data."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from graftpop.errors import DataError, GraftpopError, ResourceError
from graftpop.settings import Settings
from graftpop.space import Space

__all__ = ["check_nodes"]

FOLDER_TIMEOUT_S = 60.0
"""Limit for the check of the folder, which starts a process: that takes seconds on a busy node."""

DEATH_TIMEOUT_S = 40.0
"""How long a failing node may take to be declared dead; at Ray's defaults that takes about 25 s."""

DATA_TIMEOUT_S = 1800.0
"""Limit for the check of the data: decoding millions of images takes minutes, once per node."""


def check_nodes(space: Space, location: str) -> None:
    """Check that all nodes share the run folder, and that all nodes with CPUs have the data.

    Each node decodes its data once during the check. A cluster of one node needs no check. Nodes that join later are
    not checked: a failure there fails the trial.

    Args:
        space: the study's space.
        location: path or URI of the existing run folder; a URI is visible to all nodes.

    Raises:
        ResourceError: a node does not share the folder, or did not answer.
        DataError: a node lacks the data or cannot read it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    others = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["NodeID"] != here}
    if not others:
        return
    if "://" not in location:
        _check_shared(Path(location), others)
    training = {node["NodeID"] for node in nodes if node["Resources"].get("CPU")}
    _check_data(space, {node: address for node, address in others.items() if node in training})


def _check_shared(folder: Path, nodes: dict[str, str]) -> None:
    mark = folder / f".seen-{secrets.token_hex(8)}"
    mark.touch()
    try:
        problems = _run_on(nodes, FOLDER_TIMEOUT_S, "check the run folder", _folder_problem, str(mark))
    finally:
        mark.unlink(missing_ok=True)
    if problems:
        raise ResourceError(
            f"--out {folder}: all nodes must share the run folder; {_first_of(problems)}; choose a folder that they "
            f"share, or a URI such as s3://bucket/run or gs://bucket/run"
        )


def _folder_problem(mark: str) -> str:
    """Return why this node does not share the folder of a mark file; an empty string if it does."""
    if not Path(mark).exists():
        return "does not see it"
    own = Path(f"{mark}-{ray.get_runtime_context().get_node_id()}")
    try:
        own.touch()
        own.unlink()
    except OSError as error:
        return f"cannot write there: {error.strerror}"
    return ""


def _check_data(space: Space, nodes: dict[str, str]) -> None:
    every = [*space.settings_of("data"), *space.boundary_settings()]
    for data in dict.fromkeys(settings.data for settings in every):
        settings = next(settings for settings in every if settings.data == data)
        problems = _run_on(nodes, DATA_TIMEOUT_S, f"read {data.name}", _data_problem, settings)
        if problems:
            raise DataError(
                f"data.name: every node needs its own copy of {data.name}; {_first_of(problems)}; its "
                f"GRAFTPOP_DATA must be set before `ray start` there"
            )


def _data_problem(settings: Settings) -> str:
    """Decode this node's data and return why that failed; an empty string on success."""
    from graftpop.data import load_splits

    try:
        load_splits(settings.data, seed=settings.seed, task=settings.task)
    except GraftpopError as error:
        return f"reports {error}"
    return ""


def _run_on(
    nodes: dict[str, str], timeout_s: float, action: str, task: Callable[..., str], *arguments: Any
) -> dict[str, str]:
    """Run a task on every node at once; return the nonempty results by address.

    A node that the cluster finds dead meanwhile is skipped.

    Raises:
        ResourceError: a node did not answer in time.
    """
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(task)
    node_of = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments): node
        for node in nodes
    }
    _, late = ray.wait(list(node_of), num_returns=len(node_of), timeout=timeout_s)
    if late:
        raise ResourceError(
            f"node {', '.join(sorted(nodes[node_of[one]] for one in late))}: did not {action} within "
            f"{timeout_s:g} s; check that it runs (`ray status`), or remove it from the cluster"
        )
    results = {}
    for reference, node in node_of.items():
        address = nodes[node]
        try:
            results[address] = ray.get(reference, timeout=timeout_s)
        except RayError as error:
            if _is_found_dead(node):
                continue
            raise ResourceError(
                f"node {address}: could not {action}: {_last_line(error)}; check that it runs and has the "
                f"same graftpop installed, or remove it from the cluster"
            ) from error
    return {address: text for address, text in results.items() if text}


def _is_found_dead(node: str) -> bool:
    """Return whether the cluster declares a failing node dead within the timeout."""
    deadline = time.monotonic() + DEATH_TIMEOUT_S
    while any(one["NodeID"] == node and one["Alive"] for one in ray.nodes()):
        if time.monotonic() > deadline:
            return False
        time.sleep(1.0)
    return True


def _first_of(problems: dict[str, str]) -> str:
    """Return the first node with its problem, and the number of nodes with problems."""
    address, text = min(problems.items())
    return f"node {address}{f' (one of {len(problems)})' * (len(problems) > 1)} {text}"


def _last_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
