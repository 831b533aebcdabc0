"""What must hold on every node of a cluster before a study starts there: it sees the run folder and has the data."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from graftpop.errors import DataError, GraftpopError, ResourceError
from graftpop.settings import DataSettings
from graftpop.space import Space

__all__ = ["check_nodes"]

SIGHT_LIMIT_S = 60.0
"""A node needs a process to look with, which takes seconds where it is busy."""

DEATH_LIMIT_S = 40.0
"""Ray takes about 25 s at its defaults to notice that a node is gone."""

DATA_LIMIT_S = 1800.0
"""A node that decodes a data set of millions of images takes minutes, once."""


def check_nodes(space: Space, location: str) -> None:
    """Check that all nodes of the cluster share the run folder, and that all that train have the data.

    A node decodes its data here, once, as the one this process runs on has done before. A cluster of one node has
    nothing to check. Nodes that join later are not checked: what fails there fails as a trial does.

    Args:
        space: of the study.
        location: of the run folder, which exists: a folder, or a URI, which all nodes see.

    Raises:
        ResourceError: a node does not see the folder, or did not answer.
        DataError: a node has no data, or cannot read it.
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
        unseen = _ask(nodes, SIGHT_LIMIT_S, "look for the run folder", _sees, str(mark))
    finally:
        mark.unlink(missing_ok=True)
    if unseen:
        raise ResourceError(
            f"--out {folder}: all nodes must share the run's folder, and {_one_of(unseen)}; choose a folder that they "
            f"share, or a URI such as s3://bucket/run or gs://bucket/run"
        )


def _sees(mark: str) -> str:
    """Say why this node does not share the folder that a mark was made in; an empty string if it does."""
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
        seed = next(settings.seed for settings in every if settings.data == data)
        lacking = _ask(nodes, DATA_LIMIT_S, f"read {data.name}", _reads, data, seed)
        if lacking:
            raise DataError(
                f"data.name: every node needs its own copy of {data.name}, and {_one_of(lacking)}; its "
                f"GRAFTPOP_DATA is what it was when `ray start` ran there"
            )


def _reads(data: DataSettings, seed: int) -> str:
    """Say why this node cannot read its data; an empty string if it can, and has it decoded now."""
    from graftpop.data import load_splits

    try:
        load_splits(data, seed=seed)
    except GraftpopError as error:
        return f"says {error}"
    return ""


def _ask(
    nodes: dict[str, str], timeout_s: float, what: str, task: Callable[..., str], *arguments: Any
) -> dict[str, str]:
    """Run a task on every node at once; return by address what those say that say something.

    A node that is dead, which the cluster only notices meanwhile, is asked for nothing.

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
            f"node {', '.join(sorted(nodes[node_of[one]] for one in late))}: did not {what} within "
            f"{timeout_s:g} s; see that it runs (`ray status`), or take it out of the cluster"
        )
    said = {}
    for reference, node in node_of.items():
        address = nodes[node]
        try:
            said[address] = ray.get(reference, timeout=timeout_s)
        except RayError as error:
            if _is_found_dead(node):
                continue
            raise ResourceError(
                f"node {address}: could not {what}: {_last_line(error)}; see that it runs and has the "
                f"same graftpop installed, or take it out of the cluster"
            ) from error
    return {address: text for address, text in said.items() if text}


def _is_found_dead(node: str) -> bool:
    """Return whether the cluster finds a node dead that did not do what it was asked for."""
    deadline = time.monotonic() + DEATH_LIMIT_S
    while any(one["NodeID"] == node and one["Alive"] for one in ray.nodes()):
        if time.monotonic() > deadline:
            return False
        time.sleep(1.0)
    return True


def _one_of(said: dict[str, str]) -> str:
    """Name a node and what it said, and count the others."""
    address, text = min(said.items())
    return f"node {address}{f' (one of {len(said)})' * (len(said) > 1)} {text}"


def _last_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
