"""Recovery and roster call by call, on peers without networks that fail as scripted."""

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest
from space_makers import make_settings

from graftpop.errors import CollectiveError, PeerError, PeerLost, ResultLost
from graftpop.population import Calls, Event, LocalGroup, roster
from graftpop.population.deadlines import Deadlines
from graftpop.population.group import ResultMode
from graftpop.population.recovery import Recovery
from graftpop.population.roster import Roster

EVERYONE: Calls = {0: (), 1: (), 2: ()}


class FailingGroup(LocalGroup):
    """Three peers whose results are (method, peer, number of the run).

    Args:
        failures: errors by method and peer, each once.
        processes: peers that share a process.
    """

    def __init__(
        self, failures: Mapping[tuple[str, int], PeerError] | None = None, processes: Collection[set[int]] = ()
    ) -> None:
        super().__init__(lambda peer: None, 3)
        self._failures = dict(failures or {})
        self._processes = processes
        self.runs: list[tuple[str, list[int], float]] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.restarted: list[list[int]] = []
        self.dismissed: list[int] = []

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        if calls:
            self.runs.append((method, sorted(calls), timeout_s))
            self.arguments += calls.values()
        for peer in calls:
            yield peer, self._failures.pop((method, peer), None) or (method, peer, len(self.runs))

    def restart(self, peers: Collection[int]) -> None:
        self.restarted.append(sorted(peers))

    def coresident(self, peers: Collection[int]) -> set[int]:
        shared = [process for process in self._processes if process & set(peers)]
        return set(peers).union(*shared)

    def dismiss(self, peers: Collection[int]) -> None:
        self.dismissed += sorted(peers)

    def methods(self) -> list[tuple[str, list[int]]]:
        return [(method, peers) for method, peers, _ in self.runs]


def make_roster(group: FailingGroup, **population: Any) -> tuple[Roster, list[Event]]:
    events: list[Event] = []
    settings = make_settings(population={"replace_timeout_s": 10.0, **population})
    return Roster(group, settings.population, events.append), events


def make_recovery(group: FailingGroup, *, together: bool = False) -> tuple[Recovery, list[Event]]:
    present, events = make_roster(group)
    return Recovery(group, present, Deadlines(make_settings().population), together=together), events


def lost_peers(events: list[Event]) -> list[int | None]:
    return [event.peer for event in events if event.event == "lost"]


# recovery


def test_only_lost_peers_replay_calls_since_the_commit() -> None:
    group = FailingGroup({("train", 1): PeerLost("peer 1: killed")})
    recovery, events = make_recovery(group)
    recovery.commit([("load", EVERYONE)])
    recovery.call("advance", EVERYONE)
    recovery.call("train", EVERYONE)
    assert group.methods() == [
        ("advance", [0, 1, 2]),
        ("train", [0, 1, 2]),
        ("process_id", [1]),
        *[("load", [1]), ("advance", [1]), ("train", [1])],
    ]
    assert [(event.peer, event.event) for event in events] == [(1, "lost"), (1, "replaced")]


def test_peers_of_one_process_are_lost_together() -> None:
    group = FailingGroup({("train", 0): PeerLost("peer 0: killed")}, processes=[{0, 1}])
    recovery, events = make_recovery(group)
    recovery.call("train", EVERYONE)
    assert lost_peers(events) == [0, 1]
    assert group.restarted == [[0, 1]]
    assert group.methods() == [("train", [0, 1, 2]), ("process_id", [0, 1]), ("train", [0, 1])]


def test_peers_repeat_a_broken_collective_without_a_loss() -> None:
    errors = {("train", peer): CollectiveError(f"peer {peer}: broken") for peer in (0, 2)}
    group = FailingGroup({**errors, ("train", 1): PeerLost("peer 1: killed")})
    recovery, events = make_recovery(group, together=True)
    recovery.call("train", EVERYONE)
    assert lost_peers(events) == [1]
    assert group.methods() == [("train", [0, 1, 2]), ("process_id", [1]), ("train", [0, 1, 2])]


def test_responding_owner_of_a_lost_result_is_replaced() -> None:
    group = FailingGroup({("exchange", 1): ResultLost("peer 1: an argument is gone")})
    recovery, events = make_recovery(group)
    published = recovery.call("publish", {0: ()}, result_mode="ref")
    first = published[0].handle
    recovery.call("exchange", {1: (published[0],)})
    assert lost_peers(events) == [0]
    assert [method for method, _ in group.methods()] == [
        *["publish", "exchange", "process_id"],  # it answers
        *["process_id", "publish", "exchange"],  # it is restarted
    ]
    assert published[0].handle != first
    assert group.arguments[-1] == (published[0].handle,)


def test_rewound_peers_load_their_last_state() -> None:
    group = FailingGroup()
    recovery, _ = make_recovery(group)
    recovery.commit([("load", EVERYONE)])
    recovery.call("train", EVERYONE)
    recovery.rewind()
    recovery.call("train", EVERYONE)
    assert group.methods() == [("train", [0, 1, 2]), ("load", [0, 1, 2]), ("train", [0, 1, 2])]


def test_peers_rewound_before_the_first_commit_are_restarted() -> None:
    group = FailingGroup()
    recovery, _ = make_recovery(group)
    recovery.call("train_teachers", {0: ()})
    recovery.rewind()
    assert group.restarted == [[0, 1, 2]]


# roster


def test_peer_may_be_lost_max_peer_restarts_times() -> None:
    present, events = make_roster(FailingGroup(), max_peer_restarts=2)
    for _ in range(2):
        present.lose(1, PeerLost("peer 1: killed"), 1)
    with pytest.raises(PeerError, match="already replaced 2 times"):
        present.lose(1, PeerLost("peer 1: killed"), 1)
    assert lost_peers(events) == [1, 1, 1]


def test_restart_timeout_begins_anew_with_each_loss() -> None:
    present, events = make_roster(FailingGroup())
    present.lose(1, PeerLost("peer 1: killed"), 1)
    assert present.is_away(1)
    time.sleep(0.1)
    present.lose(1, PeerLost("peer 1: killed"), 1)
    assert 9.95 < present.left_s(1) <= 10.0
    present.came_back(1, 1)
    assert not present.is_away(1)
    assert events[-1].event == "replaced"
    assert events[-1].took_s is not None
    assert events[-1].took_s >= 0.1


def test_peers_starting_together_share_the_earliest_timeout() -> None:
    group = FailingGroup()
    present, _ = make_roster(group)
    present.lose(0, PeerLost("peer 0: killed"), 1)
    time.sleep(0.1)
    present.lose(1, PeerLost("peer 1: killed"), 1)
    assert present.start_anew([0, 1]) == []
    ((method, peers, timeout_s),) = group.runs
    assert (method, peers) == ("process_id", [0, 1])
    assert timeout_s <= 9.9


def test_peer_that_fails_to_start_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "SECONDS_BETWEEN_STARTS", 0.01)
    group = FailingGroup({("process_id", 0): PeerLost("peer 0: no room")}, processes=[{0, 1}])
    present, _ = make_roster(group)
    for peer in (0, 1):
        present.lose(peer, PeerLost(f"peer {peer}: killed"), 1)
    assert present.start_anew([0, 1]) == []
    assert group.restarted == [[0, 1], [0, 1]]


def test_dismissed_peer_leaves_roster_and_group() -> None:
    group = FailingGroup()
    present, _ = make_roster(group)
    present.dismiss([1])
    assert present.peers == [0, 2]
    assert group.dismissed == [1]
