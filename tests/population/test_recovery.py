"""Populations of which peers are lost: what comes of them equals, to the bit, what comes of one that loses nobody."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from graftpop.errors import CollectiveError, PeerError, PeerLost, PopulationLost, ResultLost
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
    "removal": {"attenuation": {"factor": 0.0, "recoverable": False}, "graft": {}, "population": {"topology": "best"}},
}
UNTIMED = ("images_per_s", "train_s", "exchange_s")


def settings(method: str = "grafting", **changes: Mapping[str, Any]) -> Settings:
    tree: dict[str, Any] = {
        "data": {"name": "digits", "max_train_images": 120},
        "model": {"name": "resnet8"},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.05, "schedule": "cosine", "precision": "float32"},
        "population": {"num_peers": NUM_PEERS, "max_peer_restarts": 9, "replace_timeout_s": 0.5},
    }
    for section, values in (*METHODS[method].items(), *changes.items()):
        tree[section] = {**tree.get(section, {}), **values}
    return Settings.model_validate(tree)


@dataclass
class Held:
    """What a peer holds for others; gone with the peer."""

    owner: int
    value: Any
    is_gone: bool = False


class DyingGroup(LocalGroup):
    """A group whose peers die, with all that they hold for others, at the beginning of some of its calls.

    Args:
        deaths: peers by the number of the call, from 0.
        never_back: those that find no room again.
    """

    def __init__(
        self, chosen: Settings, deaths: Mapping[int, Collection[int]], never_back: Collection[int] = ()
    ) -> None:
        super().__init__(partial(Peer, chosen), chosen.population.num_peers)
        self._meets = chosen.mutual is not None and chosen.mutual.exchange == "logits"
        self._deaths, self._never_back = deaths, never_back
        self._held: list[Held] = []
        self._dead: set[int] = set()
        self.num_calls = 0

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, wanted: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        if method != "process_id":  # by which is known who is back
            for peer in self._deaths.get(self.num_calls, ()):
                self._dead.add(peer)
                for held in self._held:
                    held.is_gone |= held.owner == peer
            self.num_calls += 1
        able: dict[int, tuple[Any, ...]] = {}
        for peer, arguments in calls.items():
            if peer in self._dead:
                yield peer, PeerLost(f"peer {peer}: died before '{method}'")
            elif any(isinstance(argument, Held) and argument.is_gone for argument in arguments):
                yield peer, ResultLost(f"peer {peer}: an argument of '{method}' is gone")
            else:
                able[peer] = tuple(argument.value if isinstance(argument, Held) else argument for argument in arguments)
        if self._meets and method == "train" and len(able) < len(calls):
            for peer in able:
                yield peer, CollectiveError(f"peer {peer}: met nobody")
            return
        for peer, result in super().run(method, able, timeout_s, wanted=wanted):
            if wanted == "ref":
                self._held.append(Held(peer, result))
            yield peer, self._held[-1] if wanted == "ref" else result

    def restart(self, peers: Collection[int]) -> None:
        back = [peer for peer in peers if peer not in self._never_back]
        super().restart(back)
        self._dead.difference_update(back)


@dataclass
class Outcome:
    """A whole population's rounds, final result, states and events, and how many calls they took."""

    rounds: list[Round]
    result: dict[str, Any]
    states: dict[int, dict[str, Tensor]]
    events: list[Event]
    num_calls: int


def run(chosen: Settings, deaths: Mapping[int, Collection[int]], never_back: Collection[int] = ()) -> Outcome:
    events: list[Event] = []
    group = DyingGroup(chosen, deaths, never_back)
    population = Population(group, chosen, events.append)
    rounds = [population.step() for _ in range(chosen.num_rounds)]
    result = population.finish(rounds[-1])
    states = {peer: tensors_from_bytes(state) for peer, state in population.save()}
    return Outcome(rounds, result, states, events, group.num_calls)


@cache
def undisturbed(method: str) -> Outcome:
    return run(settings(method), {})


def assert_equal(got: Outcome, expected: Outcome) -> None:
    assert got.result == expected.result
    for one, other in zip(got.rounds, expected.rounds, strict=True):
        assert (one.grafts, one.diagnostics) == (other.grafts, other.diagnostics)
        for row, expected_row in zip(one.peers, other.peers, strict=True):
            assert {key: row[key] for key in row.keys() - set(UNTIMED)} == {
                key: expected_row[key] for key in expected_row.keys() - set(UNTIMED)
            }
    assert got.states.keys() == expected.states.keys()
    assert all(same_bits(got.states[peer], expected.states[peer]) for peer in got.states)


@pytest.mark.parametrize("method", METHODS)
@hypothesis.settings(max_examples=6)
@hypothesis.given(data=st.data())
def test_result_is_unchanged_by_deaths_at_any_call(method: str, data: st.DataObject) -> None:
    expected = undisturbed(method)
    when = st.integers(0, expected.num_calls - 1)
    who = st.sets(st.integers(0, NUM_PEERS - 1), min_size=1)
    deaths = data.draw(st.dictionaries(when, who, min_size=1, max_size=3))
    got = run(settings(method), deaths)
    assert_equal(got, expected)
    assert {event.event for event in got.events} <= {"lost", "replaced"}
    lost, replaced = ({event.peer for event in got.events if event.event == kind} for kind in ("lost", "replaced"))
    assert lost == replaced


def test_result_is_unchanged_by_a_death_at_each_call_of_a_round() -> None:
    """Every call of the round in which the first exchange is, one after the other."""
    expected = undisturbed("grafting")
    for call in range(expected.num_calls - 1):
        assert_equal(run(settings(), {call: [1]}), expected)


def test_events_record_cause_and_duration() -> None:
    calls = {call: [2] for call in range(undisturbed("grafting").num_calls)}
    first = run(settings(), {1: [2]}).events
    assert [(event.round, event.peer, event.event) for event in first] == [(1, 2, "lost"), (1, 2, "replaced")]
    assert first[0].cause == "peer 2: died before 'train'"
    assert first[1].took_s is not None
    assert first[1].took_s > 0
    with pytest.raises(PeerError, match=r"^peer 2: died before '\w+' .* 9 .*population\.max_peer_restarts"):
        run(settings(), calls)


def test_first_loss_fails_the_population_with_max_peer_restarts_0() -> None:
    with pytest.raises(PeerError, match=r"peer 0: died before .* 0 .*population\.max_peer_restarts"):
        run(settings(population={"max_peer_restarts": 0}), {1: [0]})


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 7])
def test_population_continues_without_a_peer_above_min_peers(call: int) -> None:
    """The ring closes, and the round in which a peer left has rows of the others only."""
    chosen = settings(population={"min_peers": 2}, training={"epochs": 3})
    got = run(chosen, {call: [1]}, never_back=[1])
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


def test_peer_that_left_stays_away_after_a_checkpoint() -> None:
    chosen = settings(population={"min_peers": 2})
    group = DyingGroup(chosen, {1: [1]}, never_back=[1])
    first = Population(group, chosen)
    first.step()
    saved = dict(first.save())
    second = Population(DyingGroup(chosen, {}), chosen)
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
        run(settings(), {1: [1]}, never_back=[1])


DIVERGING = {"training": {"epochs": 3}, "population": {"num_peers": 3}}


class PoisonedPeer(Peer):
    """A peer whose weights are no longer finite at the beginning of one epoch."""

    def __init__(self, chosen: Settings, epochs: Mapping[int, int], index: int) -> None:
        super().__init__(chosen, index)
        self._poisoned = epochs.get(index)

    def train(self, num_epochs: int) -> Any:
        if self._learner.epoch == self._poisoned:
            self._learner.state.buffer[:100] = float("nan")
        return super().train(num_epochs)


def poisoned(chosen: Settings, epochs: Mapping[int, int]) -> tuple[Population, list[Event]]:
    events: list[Event] = []
    group = LocalGroup(partial(PoisonedPeer, chosen, epochs), chosen.population.num_peers)
    return Population(group, chosen, events.append), events


@pytest.mark.parametrize("peer", range(NUM_PEERS))
def test_diverged_peer_donates_nothing_and_takes_its_donors_weights(peer: int) -> None:
    chosen = settings(**DIVERGING)
    one, events = poisoned(chosen, {peer: 1})
    first, second = one.step(), one.step()
    donor = (peer - 1) % NUM_PEERS
    (event,) = events
    assert (event.round, event.peer, event.event) == (2, peer, "reseeded")
    assert event.cause.startswith(f"peer {peer}: diverged in epoch 2, training loss nan")
    assert event.cause.endswith(f"peer {donor}")
    assert len(set(first.grafts["donor"])) == 3
    donors = dict(zip(second.grafts["receiver"], second.grafts["donor"], strict=True))
    others = [other for other in range(NUM_PEERS) if other != peer]
    assert donors == {others[0]: others[1], others[1]: others[0]}  # the ring closed around it

    rows = {row["peer"]: row for row in second.peers}
    assert rows[peer]["val_accuracy"] == rows[donor]["val_accuracy"]
    assert rows[peer]["train_loss"] != rows[peer]["train_loss"]  # NaN, as it was
    assert rows[peer]["epoch"] == 2

    third = one.step()
    assert len(third.peers) == 3
    assert all(row["train_loss"] == row["train_loss"] for row in third.peers)
    assert 0 <= one.finish(third)["test_accuracy"] <= 1


def test_reseeded_peer_has_the_bits_that_its_donor_published() -> None:
    chosen = settings(training={"epochs": 2})
    one, _ = poisoned(chosen, {1: 1})
    one.step()
    one.step()  # the last, without an exchange
    states = {peer: tensors_from_bytes(state) for peer, state in one.save()}
    network = {name: tensor for name, tensor in states[0].items() if name.startswith("network/")}
    assert all(states[1][name].equal(tensor) for name, tensor in network.items())
    assert not any(name.startswith("momentum/") for name in states[1])


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({}, {0: 1, 1: 1, 2: 1}),  # nobody is left to take weights from
        ({"graft": {"source": "noise"}}, {1: 1}),  # peers do not exchange weights here
        ({"population": {"num_peers": 1}, "graft": {}}, {0: 1}),  # one alone
        ({"mutual": {}}, {1: 1}),  # it meets with the others at every batch
    ],
)
def test_divergence_without_a_possible_donor_fails_the_population(
    changes: Mapping[str, Any], epochs: Mapping[int, int]
) -> None:
    one, _ = poisoned(settings(**DIVERGING | changes), epochs)
    one.step()
    with pytest.raises(PeerError, match=r"peer \d: diverged in epoch 2, .*; choose a lower training.lr"):
        one.step()


def test_loss_and_divergence_in_the_same_round_give_the_same_result() -> None:
    chosen = settings(**DIVERGING)

    class Both(DyingGroup):
        def restart(self, peers: Collection[int]) -> None:
            self._make_peer = partial(PoisonedPeer, chosen, {1: 1})
            super().restart(peers)

    expected, _ = poisoned(chosen, {1: 1})
    rounds = [expected.step() for _ in range(3)]
    states = {peer: tensors_from_bytes(state) for peer, state in expected.save()}
    for call in range(6, 12):
        group = Both(chosen, {call: [1, 2]})
        group._make_peer = partial(PoisonedPeer, chosen, {1: 1})
        group._peers = {peer: group._make_peer(peer) for peer in range(NUM_PEERS)}
        one = Population(group, chosen)
        assert [one.step().grafts for _ in range(3)] == [done.grafts for done in rounds]
        assert all(same_bits(tensors_from_bytes(state), states[peer]) for peer, state in one.save())
