"""Donors of each peer: properties of every topology, and of each one."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftpop.ops.topology import TOPOLOGIES, Donors, Topology, best, everyone, mean, random_pairs, ring

every_topology = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
sizes = st.integers(2, 60)
seeds = st.integers(0, 999)


def pairs_of(donors: Donors) -> set[frozenset[int]]:
    return {frozenset((receiver, donor)) for receiver, given_by in enumerate(donors) for donor in given_by}


@every_topology
@given(sizes, seeds)
def test_each_donor_of_a_peer_is_another_peer_once(topology: Topology, num_peers: int, seed: int) -> None:
    donors = topology(num_peers, seed % num_peers, Random(seed))
    assert len(donors) == num_peers
    for receiver, given_by in enumerate(donors):
        assert receiver not in given_by or len(given_by) == num_peers  # or the mean of all
        assert len(set(given_by)) == len(given_by)
        assert set(given_by) <= set(range(num_peers))


@every_topology
@given(sizes, seeds)
def test_equal_random_states_give_equal_donors(topology: Topology, num_peers: int, seed: int) -> None:
    assert topology(num_peers, 0, Random(seed)) == topology(num_peers, 0, Random(seed))


@pytest.mark.parametrize("topology", [ring, everyone, mean, best])
def test_only_random_pairs_draw_from_the_random_state(topology: Topology) -> None:
    rng = Random(0)
    before = rng.getstate()
    topology(6, 2, rng)
    assert rng.getstate() == before


@pytest.mark.parametrize("topology", [ring, random_pairs, everyone, mean])
def test_only_best_topology_uses_the_best_peer(topology: Topology) -> None:
    assert len({topology(6, best_peer, Random(3)) for best_peer in range(6)}) == 1


def test_ring_donor_is_the_previous_peer() -> None:
    assert ring(4, 0, Random(0)) == ((3,), (0,), (1,), (2,))
    assert ring(2, 0, Random(0)) == ((1,), (0,))


@given(st.integers(2, 300))
def test_ring_is_one_cycle_through_all_peers(num_peers: int) -> None:
    donors, peer, visited = ring(num_peers, 0, Random(0)), 0, set()
    for _ in range(num_peers):
        visited.add(peer)
        (peer,) = donors[peer]
    assert peer == 0
    assert visited == set(range(num_peers))


@given(sizes, seeds)
def test_paired_peers_exchange_and_an_odd_one_receives_nothing(num_peers: int, seed: int) -> None:
    donors = random_pairs(num_peers, 0, Random(seed))
    partners = {receiver: given_by[0] for receiver, given_by in enumerate(donors) if given_by}
    assert all(len(given_by) <= 1 for given_by in donors)
    assert all(partners[partner] == peer for peer, partner in partners.items())
    assert len(partners) == num_peers - num_peers % 2


def test_two_peers_are_always_a_pair() -> None:
    rng = Random(0)
    assert {random_pairs(2, 0, rng) for _ in range(20)} == {((1,), (0,))}


def test_repeated_draws_cover_every_matching() -> None:
    rng = Random(0)
    matchings = [frozenset(pairs_of(random_pairs(4, 0, rng))) for _ in range(50)]
    assert len(set(matchings)) == 3


def test_each_peer_of_an_odd_number_is_sometimes_unpaired() -> None:
    rng = Random(0)
    assert {random_pairs(5, 0, rng).index(()) for _ in range(60)} == set(range(5))


@given(sizes)
def test_all_topology_gives_each_peer_all_others(num_peers: int) -> None:
    donors = everyone(num_peers, 0, Random(0))
    assert all({receiver, *donors[receiver]} == set(range(num_peers)) for receiver in range(num_peers))
    assert {len(given_by) for given_by in donors} == {num_peers - 1}


@given(sizes)
def test_mean_topology_gives_each_peer_all_peers(num_peers: int) -> None:
    assert mean(num_peers, 0, Random(0)) == (tuple(range(num_peers)),) * num_peers


@given(sizes, seeds)
def test_best_peer_donates_to_all_others_and_receives_nothing(num_peers: int, seed: int) -> None:
    best_peer = seed % num_peers
    donors = best(num_peers, best_peer, Random(0))
    assert donors[best_peer] == ()
    assert all(donors[receiver] == (best_peer,) for receiver in range(num_peers) if receiver != best_peer)


@every_topology
@pytest.mark.parametrize("num_peers", [1, 0, -1])
def test_fewer_than_two_peers_are_refused(topology: Topology, num_peers: int) -> None:
    with pytest.raises(ValueError, match=rf"^\w+: [^\n]*got num_peers={num_peers}$"):
        topology(num_peers, 0, Random(0))


@pytest.mark.parametrize("best_peer", [-1, 4])
def test_unknown_best_peer_is_refused(best_peer: int) -> None:
    with pytest.raises(ValueError, match=rf"^best: best_peer .* \[0, 4\), got best_peer={best_peer}"):
        best(4, best_peer, Random(0))
