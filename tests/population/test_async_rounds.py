"""Asynchronous rounds under any order in which peers finish."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from timings import untimed

from graftpop.errors import PeerDiverged, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.peer.peer import Peer
from graftpop.population import Calls, Event, LocalGroup, Population, Round
from graftpop.population.group import ResultMode
from graftpop.settings import Settings

NUM_PEERS = 3
NUM_ROUNDS = 5


ASYNC: Mapping[str, Any] = {
    "data": {"max_train_images": 64},
    "training": {"epochs": NUM_ROUNDS, "batch_size": 32, "schedule": "constant"},
    "population": {"num_peers": NUM_PEERS, "mode": "async", "max_peer_restarts": 99, "replace_timeout_s": 0.5},
    "graft": {},
}


def async_settings(**changes: Mapping[str, Any]) -> Settings:
    return make_settings(ASYNC, changes)


class PacedGroup(LocalGroup):
    """A group whose peers finish in a random order and die at the beginning of some calls.

    Args:
        weights: how often each peer finishes next; a peer of weight 0 finishes only when no other can.
        deaths: numbers of the calls, from 0, at whose beginning the called peer dies.
        with_node: a dead peer's stored results are lost too.
        never_back: peers whose restart fails.
    """

    def __init__(
        self,
        settings: Settings,
        rng: Random,
        weights: tuple[float, ...] = (1.0,) * NUM_PEERS,
        deaths: Collection[int] = (),
        *,
        with_node: bool = False,
        never_back: Collection[int] = (),
        make_peer: Any = Peer,
    ) -> None:
        super().__init__(partial(make_peer, settings), settings.population.num_peers)
        self._rng, self._weights = rng, weights
        self.deaths, self._with_node, self._never_back = deaths, with_node, never_back
        self._dead: set[int] = set()
        self._stored: dict[int, list[Any]] = defaultdict(list)
        self.num_calls = 0
        self.trained: list[int] = []

    def next_result(self) -> tuple[int, Any]:
        peers = [peer for peer, *_ in self._started]
        weights = [self._weights[peer] + 1e-9 for peer in peers]
        self._started.rotate(-self._rng.choices(range(len(peers)), weights)[0])
        return super().next_result()

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        for peer, arguments in calls.items():
            if self.num_calls in self.deaths and method != "process_id":
                self._dead.add(peer)
                if self._with_node:
                    for stored in self._stored[peer]:
                        stored.clear()
            self.num_calls += 1
            if peer in self._dead:
                yield peer, PeerLost(f"peer {peer}: died before '{method}'")
            elif [] in arguments:
                yield peer, ResultLost(f"peer {peer}: an argument of '{method}' is gone")
            else:
                values = tuple(argument[0] if isinstance(argument, list) else argument for argument in arguments)
                ((_, result),) = super().run(method, {peer: values}, timeout_s, result_mode=result_mode)
                if method == "train":
                    self.trained.append(peer)
                if result_mode == "ref" and not isinstance(result, PeerError):
                    result = [result]
                    self._stored[peer].append(result)
                yield peer, result

    def restart(self, peers: Collection[int]) -> None:
        back = [peer for peer in peers if peer not in self._never_back]
        super().restart(back)
        self._dead.difference_update(back)


def run(settings: Settings, group: LocalGroup) -> tuple[list[Round], dict[str, Any], dict[int, Any], list[Event]]:
    events: list[Event] = []
    population = Population(group, settings, events.append)
    rounds = [population.step() for _ in range(settings.num_rounds)]
    result = population.finish(rounds[-1])
    return rounds, result, {peer: tensors_from_bytes(state) for peer, state in population.save()}, events


def figures_of(done: Round) -> Any:
    return [*map(untimed, done.peers)], done.grafts, done.diagnostics


@cache
def sync_outcome(topology: str) -> tuple[list[Round], dict[str, Any], dict[int, Any], list[Event]]:
    settings = async_settings(population={"topology": topology, "mode": "sync"}, training={"epochs": 3})
    return run(settings, LocalGroup(partial(Peer, settings), NUM_PEERS))


@pytest.mark.parametrize("topology", ["ring", "all", "random_pairs", "best"])
@hypothesis.settings(max_examples=4)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_async_rounds_with_max_staleness_0_equal_sync_rounds(topology: str, seed: int) -> None:
    without_staleness = async_settings(population={"topology": topology, "max_staleness": 0}, training={"epochs": 3})
    expected = sync_outcome(topology)
    got = run(without_staleness, PacedGroup(without_staleness, Random(seed)))
    assert [figures_of(done) for done in got[0]] == [figures_of(done) for done in expected[0]]
    assert got[1] == expected[1]
    assert all(same_bits(got[2][peer], expected[2][peer]) for peer in range(NUM_PEERS))


def assert_complete(rounds: list[Round], max_staleness: int, peers: Collection[int] = range(NUM_PEERS)) -> list[int]:
    """Assert that every peer has each round once, with its exchange; return the staleness of every graft."""
    staleness = []
    for number, done in enumerate(rounds, start=1):
        assert [row["peer"] for row in done.peers] == list(peers)
        assert {(row["round"], row["epoch"]) for row in done.peers} == {(number, number)}
        assert bool(done.grafts) == (number < len(rounds))
        if done.grafts:
            assert set(done.grafts["round"]) == {number}
            assert sorted(set(done.grafts["receiver"])) == list(peers)
            assert max(done.grafts["staleness"]) <= max_staleness
            staleness += done.grafts["staleness"]
    return staleness


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    max_staleness=st.integers(0, 3),
    topology=st.sampled_from(["ring", "all"]),
    weights=st.tuples(*[st.sampled_from([0.0, 0.1, 1.0])] * NUM_PEERS),
)
def test_rounds_appear_once_with_bounded_staleness_at_any_pace(
    seed: int, max_staleness: int, topology: str, weights: tuple[float, ...]
) -> None:
    settings = async_settings(population={"max_staleness": max_staleness, "topology": topology})
    rounds, result, states, events = run(settings, PacedGroup(settings, Random(seed), weights))
    assert_complete(rounds, max_staleness)
    assert events == []
    assert sorted(states) == [0, 1, 2]
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_fast_peers_wait_for_one_max_staleness_behind(max_staleness: int) -> None:
    settings = async_settings(population={"max_staleness": max_staleness, "topology": "all"})
    group = PacedGroup(settings, Random(0), (1.0, 1.0, 0.0))
    rounds, *_ = run(settings, group)
    # the others train until max_staleness stops them: peer 2 trains again only when no other can
    before_its_second = group.trained[: [place for place, peer in enumerate(group.trained) if peer == 2][1]]
    assert before_its_second.count(0) == before_its_second.count(1) == min(NUM_ROUNDS, 2 + max_staleness)
    staleness = assert_complete(rounds, max_staleness)
    assert max(staleness) == min(max_staleness, NUM_ROUNDS - 2)


def test_donor_may_be_ahead_of_its_receiver() -> None:
    settings = async_settings(population={"max_staleness": 2})
    rounds, *_ = run(settings, PacedGroup(settings, Random(0), (1.0, 0.0, 1.0)))
    ahead = {
        receiver
        for done in rounds
        for receiver, staleness in zip(done.grafts.get("receiver", []), done.grafts.get("staleness", []), strict=True)
        if staleness < 0
    }
    assert ahead == {1}


@pytest.mark.parametrize("with_node", [False, True])
@hypothesis.settings(max_examples=12)
@hypothesis.given(seed=st.integers(0, 2**32), deaths=st.sets(st.integers(3, 70), min_size=1, max_size=6))
def test_rounds_appear_once_although_peers_die(with_node: bool, seed: int, deaths: set[int]) -> None:
    settings = async_settings()
    group = PacedGroup(settings, Random(seed), deaths=deaths, with_node=with_node)
    rounds, _, states, events = run(settings, group)
    assert_complete(rounds, settings.population.max_staleness)
    assert sorted(states) == [0, 1, 2]
    lost, replaced = ([event.peer for event in events if event.event == kind] for kind in ("lost", "replaced"))
    assert set(lost) == set(replaced)


def test_lost_peer_repeats_only_its_own_round() -> None:
    """Calls 0 to 2 are `save`, calls 3 to 5 the first training: call 3 kills its peer."""
    settings = async_settings(training={"epochs": 2})
    group = PacedGroup(settings, Random(0), deaths={3})
    _, _, _, events = run(settings, group)
    assert [event.event for event in events] == ["lost", "replaced"]
    assert [(event.round, event.peer) for event in events] == [(1, events[0].peer)] * 2
    assert len(group.trained) == 3 * 2


def test_peer_lost_after_the_last_round_regains_its_state() -> None:
    settings, outcomes = async_settings(), []
    for is_lost in (False, True):
        group = PacedGroup(settings, Random(0))
        population = Population(group, settings)
        rounds = [population.step() for _ in range(settings.num_rounds)]
        group.deaths = {group.num_calls} if is_lost else set()
        outcomes.append(population.finish(rounds[-1]))
    assert outcomes[1] == outcomes[0]


def test_population_continues_without_a_peer_that_has_no_room() -> None:
    settings = async_settings(population={"min_peers": 2})
    group = PacedGroup(settings, Random(1), (1.0, 0.0, 1.0), deaths={20}, never_back=[0, 1, 2])
    rounds, result, states, events = run(settings, group)
    (left,) = (event for event in events if event.event == "left")
    assert left.cause == f"peer {left.peer}: found no room on the cluster within 0.5 s"
    others = [peer for peer in range(NUM_PEERS) if peer != left.peer]
    assert sorted(states) == others
    assert [row["peer"] for row in rounds[-1].peers] == others
    for done in rounds[:-1]:
        assert set(done.grafts["receiver"]) == {row["peer"] for row in done.peers}
    assert 0 <= result["ensemble_test_accuracy"] <= 1


def test_fewer_than_min_peers_fail_the_population() -> None:
    settings = async_settings()
    with pytest.raises(PopulationLost, match=r"^peer \d: .* 0\.5 s; 2 .*population\.min_peers.* 3"):
        run(settings, PacedGroup(settings, Random(0), deaths={9}, never_back=[0, 1, 2]))


def test_loss_beyond_max_peer_restarts_fails_the_population() -> None:
    settings = async_settings(population={"max_peer_restarts": 0})
    with pytest.raises(PeerError, match=r"peer \d: died before .* 0 .*population\.max_peer_restarts"):
        run(settings, PacedGroup(settings, Random(0), deaths={9}))


class PoisonedPeer(Peer):
    """A peer whose weights become NaN at the beginning of some of its rounds."""

    poisoned: Mapping[int, Collection[int]] = {}

    def train(self, num_epochs: int) -> Any:
        if self._learner.epoch in self.poisoned.get(self._index, ()):
            self._learner.state.buffer[:100] = float("nan")
        return super().train(num_epochs)


@hypothesis.settings(max_examples=6)
@hypothesis.given(seed=st.integers(0, 2**32), peer=st.integers(0, 2), epochs=st.sets(st.integers(0, 4), min_size=1))
def test_diverged_peer_takes_the_latest_snapshot_of_its_donor(seed: int, peer: int, epochs: set[int]) -> None:
    settings = async_settings()
    poisoned = type("Poisoned", (PoisonedPeer,), {"poisoned": {peer: epochs}})
    rounds, _, states, events = run(settings, PacedGroup(settings, Random(seed), make_peer=poisoned))
    assert [(event.event, event.peer, event.round) for event in events] == [
        ("reseeded", peer, epoch + 1) for epoch in sorted(epochs)
    ]
    for event in events[0 in epochs :]:  # in the first round the donor may have no snapshot yet
        assert event.cause.endswith(f"peer {(peer - 1) % 3}")
    for done in rounds[:-1]:
        assert (peer in done.grafts["receiver"]) == (done.round - 1 not in epochs)
    assert all(tensor.isfinite().all() for state in states.values() for tensor in state.values())


@pytest.mark.parametrize("topology", ["all", "best"])
def test_diverged_peer_outside_a_ring_takes_other_weights(topology: str) -> None:
    settings = async_settings(population={"topology": topology})
    for peer in range(NUM_PEERS):
        poisoned = type("Poisoned", (PoisonedPeer,), {"poisoned": {peer: [2]}})
        _, _, _, (event,) = run(settings, PacedGroup(settings, Random(peer), make_peer=poisoned))
        assert (event.event, event.peer, event.round) == ("reseeded", peer, 3)
        assert not event.cause.endswith(f"peer {peer}")


@pytest.mark.parametrize("changes", [{}, {"graft": {"source": "noise"}}, {"population": {"num_peers": 1}}])
def test_divergence_without_a_possible_donor_fails_the_population(changes: Mapping[str, Any]) -> None:
    settings = async_settings(**changes)
    make_peer = type("Poisoned", (PoisonedPeer,), {"poisoned": {peer: [0] for peer in range(NUM_PEERS)}})
    population = Population(PacedGroup(settings, Random(0), make_peer=make_peer), settings)
    with pytest.raises(PeerDiverged, match=r"peer \d: diverged in epoch 1, .*; choose a lower training.lr"):
        population.step()


def test_population_resumes_from_a_checkpoint() -> None:
    settings = async_settings()
    first = Population(PacedGroup(settings, Random(0), (1.0, 0.1, 0.5)), settings)
    rounds = [first.step(), first.step()]
    second = Population(PacedGroup(settings, Random(7)), settings)
    second.load(dict(first.save()), 2, {})
    rounds += [second.step() for _ in range(3)]
    assert_complete(rounds, settings.population.max_staleness)
    assert 0 <= second.finish(rounds[-1])["test_accuracy"] <= 1


def test_async_peers_without_an_exchange_equal_sync_peers() -> None:
    settings = async_settings(graft={"source": "noise"})
    sync_settings = async_settings(graft={"source": "noise"}, population={"mode": "sync"})
    expected = run(sync_settings, LocalGroup(partial(Peer, sync_settings), NUM_PEERS))
    got = run(settings, PacedGroup(settings, Random(0), (1.0, 0.0, 0.5)))
    assert [figures_of(done) for done in got[0]] == [figures_of(done) for done in expected[0]]
    assert all(same_bits(got[2][peer], expected[2][peer]) for peer in range(NUM_PEERS))
