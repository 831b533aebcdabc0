"""Donors among the present peers."""

from random import Random

import pytest

from graftpop.exchange.donors import donors_among, reseeding_donor

PRESENT = [1, 4, 6]


@pytest.mark.parametrize(
    ("topology", "expected"),
    [("ring", {1: (6,), 4: (1,), 6: (4,)}), ("all", {1: (4, 6), 4: (1, 6), 6: (1, 4)}), ("best", {1: (4,), 6: (4,)})],
)
def test_topology_skips_absent_peers(topology: str, expected: dict[int, tuple[int, ...]]) -> None:
    donors = donors_among(PRESENT, topology, 4, Random(0))
    assert {receiver: tuple(sorted(given)) for receiver, given in donors.items()} == expected


def test_random_pairs_name_each_other() -> None:
    for seed in range(20):
        donors = donors_among([*PRESENT, 7], "random_pairs", 4, Random(seed))
        assert sorted(donors) == [*PRESENT, 7]
        assert all(donors[donor] == (receiver,) for receiver, (donor,) in donors.items())


@pytest.mark.parametrize("topology", ["ring", "all", "best", "random_pairs"])
def test_single_peer_has_no_donor(topology: str) -> None:
    assert donors_among([4], topology, 4, Random(0)) == {}


@pytest.mark.parametrize(
    ("topology", "peer", "expected"),
    [("ring", 4, 1), ("ring", 1, 6), ("ring", 6, 1), ("all", 4, 6), ("best", 1, 6), ("random_pairs", 4, 6)],
)
def test_diverged_peer_takes_its_ring_donor_or_the_best(topology: str, peer: int, expected: int) -> None:
    others = [other for other in (1, 6) if other != peer]
    assert reseeding_donor(peer, others, topology, 6) == expected
