"""One torch thread, one cache folder per session, repeatable property tests, and the order of files."""

import atexit
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

if TYPE_CHECKING:  # most test files need no Ray
    from graftpop.cluster.connection import Connection

hypothesis.settings.register_profile("graftpop", derandomize=True, deadline=None)
hypothesis.settings.load_profile("graftpop")
torch.set_num_threads(1)  # small networks gain nothing from more, and the tests compare bits
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, with which peers wait for all other tests

ON_REQUEST = ("chaos", "nodes")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode data sets into a folder of this session, not into the user's cache."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def connection() -> "Iterator[Connection]":
    """A real Ray of four CPUs on any machine, without its dashboard, which starts slowly."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray

    from graftpop.cluster.connection import Connection
    from graftpop.cluster.local_ray import private_start
    from graftpop.cluster.resources import Node

    num_cpus = 4
    with pytest.MonkeyPatch.context() as environment:  # Ray's processes inherit it, and import networks from there
        environment.setenv("PYTHONPATH", str(Path(__file__).parent / "support"), prepend=os.pathsep)
        with private_start():
            ray.init("local", num_cpus=num_cpus, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield Connection([Node(float(num_cpus), 0.0)], "", f"node:{ray.util.get_node_ip_address()}")
    ray.shutdown()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, and exclude the million objects of imported modules from its passes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # else libraries report leaks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tiers unless asked for, and start with the files that use Ray, which take longest."""
    unwanted = [marker for marker in ON_REQUEST if marker not in config.option.markexpr]
    long = [item for item in items if any(item.get_closest_marker(marker) for marker in unwanted)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in with_ray)
