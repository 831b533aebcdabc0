"""Imports without the garbage collector."""

import gc
from collections.abc import Iterator

import pytest

from graftpop.garbage import without_collection


@pytest.fixture(params=[True, False], ids=["on", "off"])
def was_on(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the collector is on before the block."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_collector_is_off_in_the_block_and_as_before_after_it(was_on: bool) -> None:
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled() == was_on


def test_error_in_the_block_turns_the_collector_on_again(was_on: bool) -> None:
    with pytest.raises(ImportError), without_collection():
        raise ImportError
    assert gc.isenabled() == was_on


def test_later_passes_leave_out_the_objects_of_the_block() -> None:
    with without_collection():
        kept = [[number] for number in range(100)]
    assert not any(any(one is other for other in gc.get_objects()) for one in kept[:1])
