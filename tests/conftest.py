"""One torch thread, one cache folder per session, repeatable property tests, and which tests share a process."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("graftpop", derandomize=True, deadline=None)
hypothesis.settings.load_profile("graftpop")
torch.set_num_threads(1)  # small networks gain nothing from more, and the tests compare bits

ON_REQUEST = ("chaos", "nodes")
COMMANDS = ("tests/cli/", "tests/docs/", "tests/run/")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode data sets into a folder of this session, not into the user's cache."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tiers unless asked for, and give each test its group: tests of one group share a process.

    Tests that share this process's Ray are one group. Those whose subprocesses start a Ray of their own are a second
    one, so that at most two Rays run at once. Both start first, since they take longest. Every other file is a group.
    """
    unwanted = [marker for marker in ON_REQUEST if marker not in config.option.markexpr]
    long = [item for item in items if any(item.get_closest_marker(marker) for marker in unwanted)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: group_of(item) not in ("ray", "commands"))


def group_of(item: pytest.Item) -> str:
    file = item.nodeid.partition("::")[0]
    if item.get_closest_marker("ray") is None:
        return file
    return "commands" if file.startswith(COMMANDS) else "ray"
