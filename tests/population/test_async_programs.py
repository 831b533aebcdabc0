"""Calls of asynchronous peers, one by one, in the order given by each test."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from space_makers import make_settings

from graftpop.errors import PeerDiverged, PeerLost, ResultLost
from graftpop.population import Event, LocalGroup, async_rounds
from graftpop.population.async_rounds import AsyncRounds, PeerRound
from graftpop.population.deadlines import SHORTEST_S, Deadlines
from graftpop.population.group import ResultMode
from graftpop.population.roster import Roster
from graftpop.settings import Settings

SNAPSHOT, STATE = "snapshot", "state"
Call = tuple[int, str, tuple[Any, ...]]


def settings_of(**population: Any) -> Settings:
    return make_settings(
        {"graft": {}, "training": {"epochs": 4, "schedule": "constant"}},
        population={"mode": "async", "max_staleness": 2, "round_timeout_s": 1000.0, **population},
    )


class ScriptedGroup(LocalGroup):
    """Peers without networks, whose calls end in a given order; a handle is (kind, peer, number).

    Args:
        order: peer whose call ends next; once exhausted, the lowest peer with a running call.
        failures: errors of the first calls by peer and method; None is a result.
    """

    def __init__(
        self, order: Collection[int], failures: Mapping[tuple[int, str], Sequence[Exception | None]] | None = None
    ) -> None:
        super().__init__(lambda peer: None, 3)
        self._order = iter(order)
        self._failures = {call: iter(errors) for call, errors in (failures or {}).items()}
        self._running: dict[int, Call] = {}
        self._num_published: dict[int, int] = {}
        self.ended: list[Call] = []
        self.timeouts_s: list[float] = []

    def start(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> None:
        assert peer not in self._running, f"peer {peer} got {method} while {self._running[peer][1]} was running"
        self._running[peer] = (peer, method, arguments)
        self.timeouts_s.append(timeout_s)

    def next_result(self) -> tuple[int, Any]:
        peer = next(self._order, min(self._running))
        call = self._running.pop(peer)
        self.ended.append(call)
        failure = next(self._failures.get((peer, call[1]), iter(())), None)
        return peer, failure or self._result(peer, call[1])

    def _result(self, peer: int, method: str) -> Any:
        if method == "publish":
            self._num_published[peer] = self._num_published.get(peer, 0) + 1
            return SNAPSHOT, peer, self._num_published[peer]
        return {
            "train": {"peer": peer, "val_accuracy": 0.5},
            "reseed": {"peer": peer, "val_accuracy": 0.5},
            "exchange": {"figures": {}, "columns": {"site": ["a", "b"], "donor": [0, 0]}},
            "save": (STATE, peer, 0),
        }.get(method)

    def restart(self, peers: Collection[int]) -> None:
        for peer in peers:
            self._running.pop(peer, None)

    def methods(self, peer: int) -> list[str]:
        return [method for other, method, _ in self.ended if other == peer]

    def arguments(self, peer: int, method: str) -> list[tuple[Any, ...]]:
        return [arguments for other, name, arguments in self.ended if (other, name) == (peer, method)]


def make_rounds(
    group: ScriptedGroup, settings: Settings, *, done: int = 0, teachers: tuple[Any, ...] = ()
) -> tuple[AsyncRounds, list[Event]]:
    events: list[Event] = []
    roster = Roster(group, settings.population, events.append)
    states = {peer: (STATE, peer, done) for peer in roster.peers}
    deadlines = Deadlines(settings.population)
    return AsyncRounds(group, roster, deadlines, settings, states, done, teachers, events.append), events


def all_rounds(rounds: AsyncRounds, settings: Settings) -> list[dict[int, PeerRound]]:
    return [rounds.step(number) for number in range(1, settings.num_rounds + 1)]


def test_last_round_neither_publishes_nor_grafts() -> None:
    settings, group = settings_of(), ScriptedGroup([])
    results = all_rounds(make_rounds(group, settings)[0], settings)
    exchanging = ["train", "publish", "exchange", "save"]
    assert [group.methods(peer) for peer in range(3)] == [[*exchanging * 3, "train", "save"]] * 3
    exchange_s = [[result[peer].row["exchange_s"] > 0 for peer in range(3)] for result in results]
    assert exchange_s == [[True] * 3] * 3 + [[False] * 3]


def test_timeouts_follow_the_rounds_so_far() -> None:
    settings, group = settings_of(), ScriptedGroup([])
    all_rounds(make_rounds(group, settings)[0], settings)
    assert group.timeouts_s[:3] == [1000.0] * 3
    assert group.timeouts_s[-1] == SHORTEST_S


def test_resumed_peers_do_not_wait_for_earlier_rounds() -> None:
    settings = settings_of(max_staleness=1)
    group = ScriptedGroup([0, 0, 2, 2, 0, 0])  # peer 1 is still in its first round after the resumption
    make_rounds(group, settings, done=2)[0].step(3)
    assert [method for _, method, _ in group.ended[:6]] == ["train", "publish", "train", "publish", "exchange", "save"]


def test_restarted_peer_gets_its_state_and_teachers() -> None:
    settings, group = settings_of(), ScriptedGroup([], {(1, "train"): [PeerLost("peer 1: killed")]})
    rounds, events = make_rounds(group, settings, teachers=("teacher",))
    rounds.step(1)
    assert group.methods(1)[:5] == ["train", "process_id", "load", "set_teachers", "train"]
    assert group.arguments(1, "load") == [((STATE, 1, 0),)]
    assert group.arguments(1, "set_teachers") == [("teacher",)]
    assert [(event.peer, event.event) for event in events] == [(1, "lost"), (1, "replaced")]


def test_peer_lost_while_starting_is_restarted_until_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_rounds, "SECONDS_BETWEEN_STARTS", 0.01)
    lost = PeerLost("peer 1: killed")
    settings = settings_of(replace_timeout_s=60.0)
    group = ScriptedGroup([], {(1, "train"): [lost], (1, "process_id"): [lost, lost]})
    rounds, events = make_rounds(group, settings)
    rounds.step(1)
    assert group.methods(1)[:5] == ["train", "process_id", "process_id", "process_id", "load"]
    assert [(event.peer, event.event) for event in events] == [(1, "lost"), (1, "replaced")]


def test_lost_snapshot_is_not_used_again() -> None:
    """Peer 0 grafts peer 2, its donor in the ring; the snapshot is lost, and peer 2 publishes another one."""
    settings = settings_of()
    group = ScriptedGroup([], {(0, "exchange"): [ResultLost("peer 0: an argument is gone")]})
    all_rounds(make_rounds(group, settings)[0], settings)
    first, second, *_ = group.arguments(0, "exchange")
    assert first == ((SNAPSHOT, 2, 1),)
    assert second == ((SNAPSHOT, 2, 2),)


def test_newer_snapshot_replaces_a_lost_one() -> None:
    """While peer 0 grafts the first snapshot of peer 2, peer 2 publishes its second."""
    settings = settings_of()
    first_rounds = [*[0, 0], *[1, 1], *[2, 2]]  # train, publish
    ahead = [2, 2, 2, 2]  # graft, save, train, publish
    group = ScriptedGroup([*first_rounds, *ahead, 0, 0], {(0, "exchange"): [ResultLost("peer 0: an argument is gone")]})
    make_rounds(group, settings)[0].step(1)
    assert group.arguments(0, "exchange")[:2] == [((SNAPSHOT, 2, 1),), ((SNAPSHOT, 2, 2),)]
    assert group.ended[len(first_rounds) + len(ahead) + 1][:2] == (0, "exchange")  # at once


def test_restarted_peer_republishes_its_snapshot_with_its_round() -> None:
    """The node of peer 2 is lost in its second round, with the snapshot of its first that peer 0 is about to graft."""
    settings = settings_of()
    order = [*[0, 0, 1, 1, 2, 2], 2, 2, 0, 2]  # train, publish; graft, save of peer 2; graft of peer 0; train of peer 2
    failures: dict[tuple[int, str], Sequence[Exception | None]] = {
        (0, "exchange"): [ResultLost("peer 0: an argument is gone")],
        (2, "train"): [None, PeerLost("peer 2: killed")],
    }
    group = ScriptedGroup(order, failures)
    result = make_rounds(group, settings)[0].step(1)
    assert group.methods(2)[4:8] == ["train", "process_id", "load", "publish"]
    assert group.arguments(0, "exchange") == [((SNAPSHOT, 2, 1),), ((SNAPSHOT, 2, 2),)]
    assert (result[0].exchanged is not None, result[0].staleness) == (True, 0)


def test_owners_of_awaited_lost_snapshots_are_restarted() -> None:
    settings = settings_of(max_staleness=0)
    lost = [ResultLost("an argument is gone")]
    group = ScriptedGroup([], {(peer, "exchange"): lost for peer in range(3)})
    rounds, events = make_rounds(group, settings)
    results = all_rounds(rounds, settings)
    assert [sorted(result) for result in results] == [[0, 1, 2]] * settings.num_rounds
    assert [event.peer for event in events if event.event == "replaced"] == [0, 1, 2]


def test_diverged_peer_waits_if_its_donors_snapshot_is_lost() -> None:
    settings = settings_of()
    group = ScriptedGroup(
        [],
        {(0, "train"): [PeerDiverged("peer 0: diverged")], (0, "reseed"): [ResultLost("peer 0: an argument is gone")]},
    )
    rounds, events = make_rounds(group, settings)
    all_rounds(rounds, settings)
    first, second = group.arguments(0, "reseed")
    assert first[0] != second[0]
    assert [(event.peer, event.event) for event in events if event.event == "reseeded"] == [(0, "reseeded")]


@pytest.mark.parametrize("epochs", [1, 4])
def test_diverged_peer_takes_weights_also_if_the_first_round_is_the_last(epochs: int) -> None:
    """A training of one round, and one that resumes before its last round."""
    settings = make_settings(
        {"graft": {}, "training": {"epochs": epochs, "schedule": "constant"}}, population={"mode": "async"}
    )
    group = ScriptedGroup([], {(0, "train"): [PeerDiverged("peer 0: diverged")]})
    rounds, events = make_rounds(group, settings, done=epochs - 1)
    assert sorted(rounds.step(epochs)) == [0, 1, 2]
    assert [(event.peer, event.event, event.round) for event in events] == [(0, "reseeded", epochs)]


def test_peer_that_left_is_never_restarted() -> None:
    """All snapshots are lost twice; at the first time peer 2 finds no room."""
    settings = settings_of(max_staleness=0, min_peers=2, replace_timeout_s=0.5)
    lost, killed = ResultLost("an argument is gone"), PeerLost("peer 2: killed")
    failures = {(0, "exchange"): [lost, lost], (1, "exchange"): [lost, lost], (2, "exchange"): [lost]}
    group = ScriptedGroup([], {**failures, (2, "process_id"): [killed]})
    rounds, events = make_rounds(group, settings)
    results = all_rounds(rounds, settings)
    assert [sorted(result) for result in results] == [[0, 1]] * settings.num_rounds
    assert [event.event for event in events if event.peer == 2] == ["lost", "left"]
    assert [event.peer for event in events if event.event == "replaced"] == [0, 1, 0, 1]


def functions_called(num_peers: int) -> int:
    """Return how many calls of functions a population takes whose lowest peers run ahead and wait for the others."""
    settings, group, called = settings_of(num_peers=num_peers), ScriptedGroup([]), 0
    rounds, _ = make_rounds(group, settings)

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal called
        called += event == "call"

    sys.setprofile(count)
    try:
        all_rounds(rounds, settings)
    finally:
        sys.setprofile(None)
    return called


def test_cost_per_peer_grows_no_faster_than_the_number_of_peers() -> None:
    assert functions_called(80) / functions_called(20) < 4**2
