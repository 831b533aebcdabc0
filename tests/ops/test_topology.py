"""Who gives to whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftpop.ops.topology import ring


def test_peer_i_receives_from_peer_i_less_1_and_the_first_from_the_last() -> None:
    assert ring(4) == (3, 0, 1, 2)
    assert ring(2) == (1, 0)


@given(st.integers(2, 300))
def test_a_ring_is_one_cycle_through_all_peers(num_peers: int) -> None:
    donors, peer, visited = ring(num_peers), 0, set()
    for _ in range(num_peers):
        visited.add(peer)
        peer = donors[peer]
    assert peer == 0
    assert visited == set(range(num_peers))


@pytest.mark.parametrize("num_peers", [1, 0, -1])
def test_a_ring_of_fewer_than_two_is_an_error(num_peers: int) -> None:
    with pytest.raises(ValueError, match=f"ring: needs at least 2 peers, got num_peers={num_peers}"):
        ring(num_peers)
