"""Peers in this process: collectives in lockstep, restarts and dismissals."""

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graftpop.errors import CollectiveError, PeerDiverged
from graftpop.population import LocalGroup

Collective = Generator[NDArray[Any], NDArray[Any], list[float]]


class CountingPeer:
    """A peer that counts its calls and gathers its index from all peers."""

    def __init__(self, closed: set[int], index: int) -> None:
        self.closed, self.index, self.num_calls = closed, index, 0

    def count(self) -> int:
        self.num_calls += 1
        return self.num_calls

    def gather(self, failing: int = -1) -> Collective:
        try:
            stacked = yield np.array([self.index])
            if self.index == failing:
                raise PeerDiverged(f"peer {self.index}: diverged")
            yield stacked[:, 0] + 10 * self.index
        except GeneratorExit:
            self.closed.add(self.index)
            raise
        return list(stacked[:, 0])


def test_collective_stacks_arrays_in_peer_order() -> None:
    group = LocalGroup(partial(CountingPeer, set()), 3)
    assert dict(group.run("gather", {2: (), 0: (), 1: ()}, 1.0)) == {peer: [0, 1, 2] for peer in range(3)}


def test_collective_with_a_missing_peer_ends_the_others() -> None:
    closed: set[int] = set()
    outcomes = list(LocalGroup(partial(CountingPeer, closed), 3).run("gather", dict.fromkeys(range(3), (1,)), 1.0))
    assert [(peer, type(outcome)) for peer, outcome in outcomes] == [
        (1, PeerDiverged),
        (0, CollectiveError),
        (2, CollectiveError),
    ]
    assert closed == {0, 2}


def test_restarted_peer_is_new_and_dismissed_one_absent() -> None:
    group = LocalGroup(partial(CountingPeer, set()), 2)
    calls: dict[int, tuple[Any, ...]] = {0: (), 1: ()}
    assert dict(group.run("count", calls, 1.0)) == {0: 1, 1: 1}
    group.restart([1])
    assert dict(group.run("count", calls, 1.0)) == {0: 2, 1: 1}
    group.dismiss([0])
    with pytest.raises(KeyError):
        list(group.run("count", {0: ()}, 1.0))
