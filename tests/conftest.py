"""One thread, one cache folder a session, and property tests that draw the same examples every time."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("graftpop", derandomize=True, deadline=None)
hypothesis.settings.load_profile("graftpop")
torch.set_num_threads(1)  # small networks gain nothing from more, and the figures in the tests are to the bit


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode data sets into a folder of this session, not into the user's cache."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


LONG = ("chaos", "nodes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what takes minutes, or an hour, only where it is asked for."""
    unwanted = [marker for marker in LONG if marker not in config.option.markexpr]
    long = [item for item in items if any(item.get_closest_marker(marker) for marker in unwanted)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
