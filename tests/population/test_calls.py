"""Which calls a population makes, with which arguments and timeouts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from space_makers import make_settings

from graftpop.errors import PeerError, PeerLost
from graftpop.metrics import ACCURACY
from graftpop.peer.peer import Peer
from graftpop.population import Calls, Event, LocalGroup, Population
from graftpop.population.deadlines import SHORTEST_S
from graftpop.population.group import ResultMode
from graftpop.settings import Settings
from graftpop.training.snapshot import Snapshot


class RecordingGroup(LocalGroup):
    """A group that records its calls; one peer is lost for good at the first call of a method."""

    def __init__(self, settings: Settings, *, leaving: int | None = None, at: str = "") -> None:
        super().__init__(partial(Peer, settings), settings.population.num_peers)
        self.calls: list[tuple[str, dict[int, tuple[Any, ...]], float]] = []
        self._leaving, self._at, self._has_left = leaving, at, False

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        self.calls.append((method, dict(calls), timeout_s))
        self._has_left |= method == self._at
        gone = {self._leaving} if self._has_left else set()
        yield from ((peer, PeerLost(f"peer {peer}: lost")) for peer in calls if peer in gone)
        remaining = {peer: arguments for peer, arguments in calls.items() if peer not in gone}
        yield from super().run(method, remaining, timeout_s, result_mode=result_mode)

    def of(self, method: str) -> list[tuple[dict[int, tuple[Any, ...]], float]]:
        return [(calls, timeout_s) for name, calls, timeout_s in self.calls if name == method and calls]


def finished(group: RecordingGroup, settings: Settings) -> dict[str, Any]:
    population = Population(group, settings)
    rounds = [population.step() for _ in range(settings.num_rounds)]
    return population.finish(rounds[-1])


def test_codistillation_learns_from_all_others_only() -> None:
    settings = make_settings(mutual={"exchange": "snapshots"}, training={"epochs": 3})
    group = RecordingGroup(settings)
    finished(group, settings)
    taught = group.of("set_snapshot_teachers")
    assert len(taught) == 2  # before every round but the first
    for calls, _ in taught:
        donors = {peer: [snapshot.peer for snapshot in snapshots] for peer, snapshots in calls.items()}
        assert donors == {0: [1, 2], 1: [0, 2], 2: [0, 1]}
        assert all(isinstance(snapshot, Snapshot) for snapshots in calls.values() for snapshot in snapshots)


def test_teacher_timeout_grows_with_teachers_per_peer() -> None:
    teachers = [{"model": "resnet8", "epochs": epochs} for epochs in (1, 1, 2)]
    settings = make_settings(
        distillation={"teachers": teachers},
        population={"num_peers": 2, "round_timeout_s": 100.0},
        training={"epochs": 1},
    )
    group = RecordingGroup(settings)
    Population(group, settings).prepare()
    (calls, timeout_s) = group.of("train_teachers")[0]
    assert calls == {0: (0, 2), 1: (1,)}
    assert timeout_s == 3 * 100.0
    assert group.of("save")[0][1] == 100.0


def test_timeouts_follow_the_rounds_so_far() -> None:
    settings = make_settings(graft={}, population={"round_timeout_s": 1000.0})
    group = RecordingGroup(settings)
    finished(group, settings)
    assert [timeout_s for _, timeout_s in group.of("train")] == [1000.0, SHORTEST_S]


def test_exchange_is_timed_in_rounds_that_graft() -> None:
    settings = make_settings(graft={})
    population = Population(RecordingGroup(settings), settings)
    exchange_s = [[row["exchange_s"] for row in population.step().peers] for _ in range(2)]
    assert min(exchange_s[0]) > 0
    assert exchange_s[1] == [0.0] * 3


def test_departed_peer_cannot_be_the_best() -> None:
    settings = make_settings(graft={}, population={"min_peers": 2, "replace_timeout_s": 0.1})
    best = finished(RecordingGroup(settings), settings)["best_peer"]
    outcome = finished(RecordingGroup(settings, leaving=best, at="predict"), settings)
    assert outcome["best_peer"] in {0, 1, 2} - {best}


def test_resumed_population_has_its_restarts_and_its_round() -> None:
    settings = make_settings(graft={}, population={"max_peer_restarts": 2}, training={"epochs": 3})
    first = Population(RecordingGroup(settings), settings)
    first.step()
    events: list[Event] = []
    group = RecordingGroup(settings, leaving=1, at="load")
    second = Population(group, settings, events.append)
    with pytest.raises(PeerError, match=r"^peer 1: lost .*max_peer_restarts"):
        second.load(dict(first.save()), 1, {}, {1: 2})
    assert [(event.round, event.peer, event.event) for event in events] == [(1, 1, "lost")]


@pytest.mark.parametrize("output", ["uniform_soup", "greedy_soup"])
def test_soup_is_made_best_first_then_tested_and_validated(output: str) -> None:
    settings = make_settings(population={"output": output})
    group = RecordingGroup(settings)
    population = Population(group, settings)
    *_, last = (population.step() for _ in range(settings.num_rounds))
    best = population.finish(last)["best_peer"]
    ((calls, _),) = group.of("make_soup")
    kind, *snapshots = calls[best]
    ranked = sorted(last.peers, key=ACCURACY.merit_of, reverse=True)
    assert (list(calls), kind) == ([best], output)
    assert [snapshot.peer for snapshot in snapshots] == [row["peer"] for row in ranked]
    predicted = [calls for calls, _ in group.of("predict")]
    assert predicted == [dict.fromkeys(range(3), ("test",)), {best: ("test",)}, {best: ("val",)}]


def test_ensemble_is_validated_by_the_mean_of_all_peers() -> None:
    settings = make_settings(population={"output": "ensemble"})
    group = RecordingGroup(settings)
    finished(group, settings)
    assert [set(calls) for calls, _ in group.of("cost")] == [{0, 1, 2}]
    assert [calls for calls, _ in group.of("predict")] == [
        dict.fromkeys(range(3), ("test",)),
        dict.fromkeys(range(3), ("val",)),
    ]
