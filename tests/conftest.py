"""One torch thread, one cache folder per session, repeatable property tests, and which tests share a process."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("graftpop", derandomize=True, deadline=None)
hypothesis.settings.load_profile("graftpop")
torch.set_num_threads(1)  # small networks gain nothing from more, and the tests compare bits

ON_REQUEST = ("chaos", "nodes")
SHARED_RAY = "connection"
"""Fixture of the Ray that tests share; a test without it starts and ends its own."""


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode data sets into a folder of this session, not into the user's cache."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tiers unless asked for, and give each test its group: tests of one group share a process.

    Tests that share a Ray are one group, tests that start their own are another, so that at most two Rays run at once.
    Both groups start first, since they take longest. Every other file is a group.
    """
    unwanted = [marker for marker in ON_REQUEST if marker not in config.option.markexpr]
    long = [item for item in items if any(item.get_closest_marker(marker) for marker in unwanted)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: group_of(item) not in ("shared Ray", "own Ray"))


def group_of(item: pytest.Item) -> str:
    if item.get_closest_marker("ray") is None:
        return item.nodeid.partition("::")[0]
    return "shared Ray" if SHARED_RAY in getattr(item, "fixturenames", ()) else "own Ray"
