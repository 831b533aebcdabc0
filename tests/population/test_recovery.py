"""Populations that lose peers give the same bits as populations that lose none."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import strategies as st
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from timings import untimed
from torch import Tensor

from graftpop.errors import CollectiveError, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.metrics import ACCURACY
from graftpop.peer.peer import Peer
from graftpop.population import Calls, Event, LocalGroup, Population, Round
from graftpop.population.group import ResultMode
from graftpop.settings import Settings

NUM_PEERS = 3
METHODS: dict[str, Mapping[str, Any]] = {
    "grafting": {"graft": {}},
    "mutual learning with grafting": {"mutual": {}, "graft": {}},
    "cultivation, codistillation and a soup": {
        "distillation": {"teachers": [{"model": "resnet8", "epochs": 1}]},
        "mutual": {"exchange": "snapshots"},
        "graft": {"level": "filter"},
        "population": {"topology": "all", "output": "greedy_soup"},
        "diagnostics": {"pairs": True},
    },
    "alignment": {"graft": {}, "align": {}, "population": {"topology": "random_pairs"}},
    "branch": {"training": {"epochs": 3}, "population": {"branch_at": 0.4}, "graft": {}},
    "averaged gradients": {
        "training": {"epochs": 3},
        "population": {"sync_until": 0.4, "exchange_every": 2},
        "outer": {},
    },
    "removal": {"pruning": {"preset": "hard"}, "graft": {}, "population": {"topology": "best"}},
}
SMALLER: Mapping[str, Any] = {
    "data": {"max_train_images": 120},
    "population": {"num_peers": NUM_PEERS, "max_peer_restarts": 9, "replace_timeout_s": 0.5},
}


def recovery_settings(method: str = "grafting", **changes: Mapping[str, Any]) -> Settings:
    return make_settings(SMALLER, METHODS[method], changes)


@dataclass
class StoredResult:
    """A result that a peer stores for others; lost with the peer."""

    owner: int
    value: Any
    is_gone: bool = False


class DyingGroup(LocalGroup):
    """A group whose peers die, with the results they store, at the beginning of some calls.

    Args:
        deaths: peers that die, by the number of the call, from 0.
        never_back: peers whose restart fails.
    """

    def __init__(
        self, settings: Settings, deaths: Mapping[int, Collection[int]], never_back: Collection[int] = ()
    ) -> None:
        super().__init__(partial(Peer, settings), settings.population.num_peers)
        self._runs_in_lockstep = settings.runs_in_lockstep
        self._deaths, self._never_back = deaths, never_back
        self._stored: list[StoredResult] = []
        self._dead: set[int] = set()
        self.num_calls = 0

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        if method != "process_id":  # the population calls it to check on restarted peers
            for peer in self._deaths.get(self.num_calls, ()):
                self._dead.add(peer)
                for stored in self._stored:
                    stored.is_gone |= stored.owner == peer
            self.num_calls += 1
        runnable: dict[int, tuple[Any, ...]] = {}
        for peer, arguments in calls.items():
            if peer in self._dead:
                yield peer, PeerLost(f"peer {peer}: died before '{method}'")
            elif any(isinstance(argument, StoredResult) and argument.is_gone for argument in arguments):
                yield peer, ResultLost(f"peer {peer}: an argument of '{method}' is gone")
            else:
                runnable[peer] = tuple(
                    argument.value if isinstance(argument, StoredResult) else argument for argument in arguments
                )
        if self._runs_in_lockstep and method == "train" and len(runnable) < len(calls):
            for peer in runnable:
                yield peer, CollectiveError(f"peer {peer}: collective failed")
            return
        for peer, result in super().run(method, runnable, timeout_s, result_mode=result_mode):
            if result_mode == "ref":
                self._stored.append(StoredResult(peer, result))
            yield peer, self._stored[-1] if result_mode == "ref" else result

    def restart(self, peers: Collection[int]) -> None:
        back = [peer for peer in peers if peer not in self._never_back]
        super().restart(back)
        self._dead.difference_update(back)


@dataclass
class Outcome:
    """Rounds, final result, states and events of a population, and the number of its calls."""

    rounds: list[Round]
    result: dict[str, Any]
    states: dict[int, dict[str, Tensor]]
    events: list[Event]
    num_calls: int


def run(settings: Settings, deaths: Mapping[int, Collection[int]], never_back: Collection[int] = ()) -> Outcome:
    events: list[Event] = []
    group = DyingGroup(settings, deaths, never_back)
    population = Population(group, settings, events.append)
    rounds = [population.step() for _ in range(settings.num_rounds)]
    result = population.finish(rounds[-1])
    states = {peer: tensors_from_bytes(state) for peer, state in population.save()}
    return Outcome(rounds, result, states, events, group.num_calls)


@cache
def undisturbed(method: str) -> Outcome:
    return run(recovery_settings(method), {})


def assert_equal(got: Outcome, expected: Outcome) -> None:
    assert untimed(got.result) == untimed(expected.result)
    for done, expected_round in zip(got.rounds, expected.rounds, strict=True):
        assert (done.grafts, done.diagnostics) == (expected_round.grafts, expected_round.diagnostics)
        assert list(map(untimed, done.peers)) == list(map(untimed, expected_round.peers))
    assert got.states.keys() == expected.states.keys()
    assert all(same_bits(got.states[peer], expected.states[peer]) for peer in got.states)


@pytest.mark.parametrize("method", METHODS)
@hypothesis.settings(max_examples=6)
@hypothesis.given(data=st.data())
def test_deaths_at_any_call_do_not_change_the_result(method: str, data: st.DataObject) -> None:
    expected = undisturbed(method)
    calls = st.integers(0, expected.num_calls - 1)
    peers = st.sets(st.integers(0, NUM_PEERS - 1), min_size=1)
    deaths = data.draw(st.dictionaries(calls, peers, min_size=1, max_size=3))
    got = run(recovery_settings(method), deaths)
    assert_equal(got, expected)
    assert {event.event for event in got.events} <= {"lost", "replaced"}
    lost, replaced = ({event.peer for event in got.events if event.event == kind} for kind in ("lost", "replaced"))
    assert lost == replaced


def test_death_at_each_call_does_not_change_the_result() -> None:
    expected = undisturbed("grafting")
    for call in range(expected.num_calls - 1):
        assert_equal(run(recovery_settings(), {call: [1]}), expected)


def test_events_record_cause_and_duration() -> None:
    calls = {call: [2] for call in range(undisturbed("grafting").num_calls)}
    first = run(recovery_settings(), {1: [2]}).events
    assert [(event.round, event.peer, event.event) for event in first] == [(1, 2, "lost"), (1, 2, "replaced")]
    assert first[0].cause == "peer 2: died before 'train'"
    assert first[1].took_s is not None
    assert first[1].took_s > 0
    with pytest.raises(PeerError, match=r"^peer 2: died before '\w+' .* 9 .*population\.max_peer_restarts"):
        run(recovery_settings(), calls)


def test_first_loss_fails_a_population_without_restarts() -> None:
    with pytest.raises(PeerError, match=r"peer 0: died before .* 0 .*population\.max_peer_restarts"):
        run(recovery_settings(population={"max_peer_restarts": 0}), {1: [0]})


def test_peer_that_cannot_be_built_anew_fails_the_population_with_its_reason() -> None:
    class GroupWithoutData(DyingGroup):
        restarted: ClassVar[list[int]] = []

        def run(
            self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
        ) -> Iterator[tuple[int, Any]]:
            for peer in filter(calls.__contains__, self.restarted):
                yield peer, PeerError(f"peer {peer}: its node lacks data.name")
            others = {peer: arguments for peer, arguments in calls.items() if peer not in self.restarted}
            yield from super().run(method, others, timeout_s, result_mode=result_mode)

        def restart(self, peers: Collection[int]) -> None:
            super().restart(peers)
            self.restarted.extend(peers)

    settings = recovery_settings(population={"min_peers": 2})
    with pytest.raises(PeerError, match=r"lacks data\.name"):
        Population(GroupWithoutData(settings, {1: [1]}), settings).step()
    assert GroupWithoutData.restarted == [1]


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 7])
def test_population_continues_without_a_peer_above_min_peers(call: int) -> None:
    """The ring closes, and the round in which a peer leaves has rows of the others only."""
    settings = recovery_settings(population={"min_peers": 2}, training={"epochs": 3})
    got = run(settings, {call: [1]}, never_back=[1])
    (left,) = (event for event in got.events if event.event == "left")
    assert left.peer == 1
    assert left.cause == "peer 1: found no room on the cluster within 0.5 s"
    assert not any(event.event == "replaced" for event in got.events)
    assert list(got.states) == [0, 2]
    for done in got.rounds:
        peers = [0, 1, 2] if done.round < left.round else [0, 2]
        assert [row["peer"] for row in done.peers] == peers
        if done.grafts:
            donors = dict(zip(done.grafts["receiver"], done.grafts["donor"], strict=True))
            assert donors == ({0: 2, 1: 0, 2: 1} if peers == [0, 1, 2] else {0: 2, 2: 0})
    assert 0 <= got.result["ensemble_test_accuracy"] <= 1


@pytest.mark.parametrize("peer", [0, 2])
@pytest.mark.parametrize("call", [1, 6])
def test_round_before_the_branch_is_not_trained_again_without_a_peer_that_left(peer: int, call: int) -> None:
    """Peers that wait for the branch are missed only there."""
    settings = recovery_settings("branch", population={"min_peers": 2})
    got = run(settings, {call: [peer]}, never_back=[peer])
    assert [row["epoch"] for done in got.rounds for row in done.peers[:1]] == [1, 2, 3]
    assert [int(state["epoch"]) for state in got.states.values()] == [3, 3]
    assert peer not in got.states


def test_checkpoint_before_the_branch_lacks_a_peer_that_left() -> None:
    settings = recovery_settings("branch", population={"min_peers": 2})
    population = Population(DyingGroup(settings, {1: [2]}, never_back=[2]), settings)
    population.step()
    assert settings.branches_after(1)
    assert [peer for peer, _ in population.save()] == [0, 1]


def test_peer_that_left_stays_away_after_a_checkpoint() -> None:
    settings = recovery_settings(population={"min_peers": 2})
    group = DyingGroup(settings, {1: [1]}, never_back=[1])
    first = Population(group, settings)
    first.step()
    saved = dict(first.save())
    second = Population(DyingGroup(settings, {}), settings)
    second.load(saved, 1, {})
    done = second.step()
    assert [row["peer"] for row in done.peers] == [0, 2]
    first.step()
    assert all(
        same_bits(tensors_from_bytes(state), tensors_from_bytes(dict(second.save())[peer]))
        for peer, state in first.save()
    )


def test_fewer_than_min_peers_fail_the_population() -> None:
    with pytest.raises(PopulationLost, match=r"^peer 1: .* 0\.5 s; 2 .*population\.min_peers.* 3"):
        run(recovery_settings(), {1: [1]}, never_back=[1])


DIVERGING: dict[str, Mapping[str, Any]] = {"training": {"epochs": 3}, "population": {"num_peers": 3}}


class PoisonedPeer(Peer):
    """A peer whose weights become NaN at the beginning of one epoch."""

    def __init__(self, settings: Settings, epochs: Mapping[int, int], index: int) -> None:
        super().__init__(settings, index)
        self._poisoned = epochs.get(index)

    def train(self, num_epochs: int) -> Any:
        if self._learner.epoch == self._poisoned:
            self._learner.state.buffer[:100] = float("nan")
        return super().train(num_epochs)


def poisoned(settings: Settings, epochs: Mapping[int, int]) -> tuple[Population, list[Event]]:
    events: list[Event] = []
    group = LocalGroup(partial(PoisonedPeer, settings, epochs), settings.population.num_peers)
    return Population(group, settings, events.append), events


@pytest.mark.parametrize("peer", range(NUM_PEERS))
def test_diverged_peer_donates_nothing_and_takes_its_donors_weights(peer: int) -> None:
    settings = recovery_settings("grafting", **DIVERGING)
    population, events = poisoned(settings, {peer: 1})
    first, second = population.step(), population.step()
    donor = (peer - 1) % NUM_PEERS
    (event,) = events
    assert (event.round, event.peer, event.event) == (2, peer, "reseeded")
    assert event.cause.startswith(f"peer {peer}: diverged in epoch 2, training loss nan")
    assert event.cause.endswith(f"peer {donor}")
    assert len(set(first.grafts["donor"])) == 3
    donors = dict(zip(second.grafts["receiver"], second.grafts["donor"], strict=True))
    others = [other for other in range(NUM_PEERS) if other != peer]
    assert donors == {others[0]: others[1], others[1]: others[0]}  # the ring closed around it
    assert [row["peer"] for row in second.peers] == [*range(NUM_PEERS)]
    rows = {row["peer"]: row for row in second.peers}
    assert ACCURACY.value_of(rows[peer]) == ACCURACY.value_of(rows[donor])
    assert rows[peer]["train_loss"] != rows[peer]["train_loss"]  # NaN is kept
    assert rows[peer]["epoch"] == 2

    third = population.step()
    assert len(third.peers) == 3
    assert all(row["train_loss"] == row["train_loss"] for row in third.peers)
    assert 0 <= population.finish(third)["test_accuracy"] <= 1


def test_reseeded_peer_has_the_bits_that_its_donor_published() -> None:
    settings = recovery_settings(training={"epochs": 2})
    population, _ = poisoned(settings, {1: 1})
    population.step()
    population.step()  # the last, without an exchange
    states = {peer: tensors_from_bytes(state) for peer, state in population.save()}
    network = {name: tensor for name, tensor in states[0].items() if name.startswith("network/")}
    assert all(states[1][name].equal(tensor) for name, tensor in network.items())
    assert not any(name.startswith("momentum/") for name in states[1])


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({}, {0: 1, 1: 1, 2: 1}),  # no finite peer is left
        ({"graft": {"source": "noise"}}, {1: 1}),  # no weights are exchanged
        ({"population": {"num_peers": 1}, "graft": {}}, {0: 1}),  # a single peer
        ({"mutual": {}}, {1: 1}),  # logits are exchanged at every batch
        ({"outer": {}, "graft": None}, {1: 1}),  # its outer optimizer would miss a step
    ],
)
def test_divergence_without_a_possible_donor_fails_the_population(
    changes: dict[str, Mapping[str, Any]], epochs: Mapping[int, int]
) -> None:
    population, _ = poisoned(recovery_settings("grafting", **DIVERGING | changes), epochs)
    population.step()
    with pytest.raises(PeerError, match=r"peer \d: diverged in epoch 2, .*; choose a lower training.lr"):
        population.step()


def test_loss_in_a_divergent_round_does_not_change_results() -> None:
    settings = recovery_settings("grafting", **DIVERGING)

    class DyingAndPoisonedGroup(DyingGroup):
        def restart(self, peers: Collection[int]) -> None:
            self._make_peer = partial(PoisonedPeer, settings, {1: 1})
            super().restart(peers)

    expected, _ = poisoned(settings, {1: 1})
    rounds = [expected.step() for _ in range(3)]
    states = {peer: tensors_from_bytes(state) for peer, state in expected.save()}
    for call in range(6, 12):
        group = DyingAndPoisonedGroup(settings, {call: [1, 2]})
        group._make_peer = partial(PoisonedPeer, settings, {1: 1})
        group._peers = {peer: group._make_peer(peer) for peer in range(NUM_PEERS)}
        population = Population(group, settings)
        assert [population.step().grafts for _ in range(3)] == [done.grafts for done in rounds]
        assert all(same_bits(tensors_from_bytes(state), states[peer]) for peer, state in population.save())
