"""Losses that Ray does not report as such: processes that no longer run, memory kills, trials without room."""

from collections.abc import Sequence

import pytest
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial

from graftpop.cluster.heartbeats import SILENT_LOOKS, Silence
from graftpop.cluster.loss_reason import failure_reason, loss_reason
from graftpop.cluster.resources import Node
from graftpop.cluster.room import ANNOUNCED_AFTER_S, ROOM_TIMEOUT_S, RoomWatch
from graftpop.errors import ResourceError

ACTOR = "Actor(Population, 7830ac04903bbbc960ce349801000000)"
MEMORY_KILL = """2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: \
b3b2f2a42d5b5e9efe445b4692e0f8ecb1fe08ce4849cdf0c33ed995) was 6.79GB used / 23.54GB limit (0.288325)
OOM kill reason: Memory usage 6688399360B exceeded threshold of 6521223168B (25.8% of 25276059648B limit)
Ray killed 2 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Task: job ID=01000000, lease ID=0300, task name=PeerActor.__init__, required resources={CPU_group_\
fa1e7599f91aeced01f33fa4672f01000000: 1}, pid=23914, actual memory used=0.28GB, worker ID=c37a)
Selected to kill: (Actor(7830ac04903bbbc960ce349801000000): job ID=01000000, lease ID=0100, task name=Population\
.__init__, required resources={bundle_group_fa1e7599f91aeced01f33fa4672f01000000: 0.001}, pid=23686, actual memory \
used=0.11GB, worker ID=09b6)
]
Total non-selected idle workers: 0
Top 10 memory users: PID	MEM(GB)	COMMAND
23947	3.55	python hog.py
23172	0.54	python -m graftpop.tune
Refer to the documentation on how to address the out of memory issue.
"""
"""What Ray 2.60 says, shortened."""


@pytest.mark.parametrize("actor", [ACTOR, None])
def test_memory_kill_names_process_node_and_keys(actor: str | None) -> None:
    reason = loss_reason(MEMORY_KILL, actor)
    assert "\n" not in reason
    assert ("pid 23686, 0.11GB" in reason) == (actor is not None)
    for part in ("memory", "10.0.0.7", "6.79GB", "23.54GB", "pid 23947", "batch_size", "resources.cpus_per_peer"):
        assert part in reason


def test_memory_kill_without_details_names_the_keys() -> None:
    assert "training.batch_size" in loss_reason("Task was killed due to the node running low on memory.", ACTOR)


DEAD_LEADER = """Failure # 1 (occurred at 2026-11-29_19-50-52)
The actor died unexpectedly before finishing this task.
\tclass_name: Population
\tactor_id: 84a8a5b05f067f45172ccd5901000000
\tpid: 26243
\tnamespace: 0ec89411-c73e-4db3-b125-ebef8817b2df
\tip: 127.0.0.1
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly.
"""


def test_death_of_a_process_is_short_and_names_it() -> None:
    reason = failure_reason(DEAD_LEADER)
    assert len(reason) < 150
    for part in ("exits", "pid: 26243", "ip: 127.0.0.1"):
        assert part in reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"{DEAD_LEADER}Failure # 2 (occurred at x)\nTraceback\n  File x\nValueError: \x1b[1mlast\n",
            "ValueError: last",
        ),
        ("Failure # 1\ngraftpop.errors.StorageError: disk: full\n", "disk: full"),
        ("Failure # 1 (occurred at x)\nfound no room\n", "found no room"),
    ],
)
def test_failure_is_the_last_error_of_the_last_attempt(text: str, reason: str) -> None:
    assert failure_reason(text) == reason


def looks(silence: Silence, count: int, heard: dict[str, str]) -> list[dict[str, str]]:
    return [silence.look(["00000", "00001"], heard) for _ in range(count)]


def test_silent_process_is_lost_at_the_limit_and_once() -> None:
    silence = Silence()
    silence.look(["00000", "00001"], {"00000": "pid 7 on here", "00001": "pid 8 on here"})
    *before, last = looks(silence, SILENT_LOOKS, {"00001": "pid 8 on here"})
    assert not any(before)
    assert list(last) == ["00000"]
    assert "pid 7 on here" in last["00000"]
    assert not any(looks(silence, SILENT_LOOKS - 1, {"00001": "pid 8 on here"}))


def test_heartbeat_restarts_the_count() -> None:
    silence = Silence()
    assert not any(looks(silence, SILENT_LOOKS - 1, {}))
    silence.look(["00000", "00001"], {"00000": "", "00001": ""})
    assert not any(looks(silence, SILENT_LOOKS - 1, {}))


def test_process_that_was_never_heard_is_lost_too() -> None:
    assert list(looks(Silence(), SILENT_LOOKS, {"00001": "pid 8"})[-1]) == ["00000"]


class Cluster:
    """Nodes and a clock for a watch."""

    def __init__(self, *cpus: float, num_trials: int = 9) -> None:
        self.nodes = [Node(each, 0.0) for each in cpus]
        self.now = 0.0
        self.watch = RoomWatch("runs/x", num_trials, lambda: self.nodes, lambda: self.now)

    def check(self, trials: Sequence[Trial], seconds: float = 0.0) -> list[tuple[str, str]]:
        """Check every five seconds; return the lines with their trials."""
        lines = []
        for _ in range(int(seconds / 5)):
            self.now += 5.0
            lines += [(trial.trial_id, line) for trial, line in self.watch.check(trials)]
        return lines


def trial(name: str, num_peers: int, status: str = Trial.PENDING) -> Trial:
    bundles = [{}, *[{"CPU": 1.0}] * num_peers]
    made = Trial("population", stub=True, trial_id=name)
    made.update_resources(PlacementGroupFactory(bundles))
    made.set_status(status)
    made.max_failures = 3
    return made


RUNNING, QUEUED, LARGE, LARGE_TOO = (
    ("small", 2, Trial.RUNNING),
    ("queued", 2, Trial.PENDING),
    ("large", 4, Trial.PENDING),
    ("large too", 4, Trial.PENDING),
)


def test_demand_beyond_the_cluster_is_announced_once_and_ends() -> None:
    cluster, trials = Cluster(1, 1), [trial(*each) for each in (RUNNING, QUEUED, LARGE, LARGE_TOO)]
    assert cluster.check(trials, ANNOUNCED_AFTER_S) == []
    ((name, line),) = cluster.check(trials, ROOM_TIMEOUT_S - ANNOUNCED_AFTER_S)
    assert name == "large"
    for part in ("4 processes of 1 CPU", "2 nodes, 2 CPU", "1 more", "UTC"):
        assert part in line
    assert not cluster.watch.no_room
    assert cluster.check(trials, 10) == []
    assert list(cluster.watch.no_room) == [trials[2].placement_group_factory]
    assert all(part in next(iter(cluster.watch.no_room.values())) for part in ("4 processes of 1 CPU", "--resume"))
    assert [each.max_failures for each in trials] == [3, 3, 0, 0]


def test_wait_ends_with_a_new_node() -> None:
    cluster, trials = Cluster(1, 1), [trial(*RUNNING), trial(*LARGE)]
    assert len(cluster.check(trials, ROOM_TIMEOUT_S + 10)) == 1
    cluster.nodes.append(Node(2.0, 0.0))
    cluster.check(trials, 5)
    assert not cluster.watch.no_room
    cluster.nodes.pop()
    assert cluster.check(trials, ANNOUNCED_AFTER_S) == []


def test_time_while_the_driver_was_stopped_does_not_count() -> None:
    cluster, trials = Cluster(1, 1), [trial(*RUNNING), trial(*LARGE)]
    cluster.check(trials, 10)
    cluster.now += 2 * ROOM_TIMEOUT_S
    assert cluster.check(trials, 10) == []
    assert not cluster.watch.no_room


def test_study_without_any_running_trial_is_announced_and_ends() -> None:
    cluster, trials = Cluster(4, 4), [trial(*QUEUED), trial(*LARGE)]
    ((name, line),) = cluster.check(trials, ROOM_TIMEOUT_S)
    assert (name, "2 processes of 1 CPU" in line) == ("queued", True)
    with pytest.raises(ResourceError, match=r"runs/x: .* 2 processes of 1 CPU.*--resume"):
        cluster.check(trials, 10)
    assert [each.max_failures for each in trials] == [3, 3]


def test_demand_beyond_the_cluster_ends_the_study_only_if_no_trial_is_left() -> None:
    trials = [trial(*LARGE)]
    waiting = Cluster(1, 1, num_trials=2)
    assert [name for name, _ in waiting.check(trials, ROOM_TIMEOUT_S + 10)] == ["large"]
    assert waiting.watch.no_room
    last = Cluster(1, 1, num_trials=1)
    assert [name for name, _ in last.check(trials, ROOM_TIMEOUT_S)] == ["large"]
    with pytest.raises(ResourceError):
        last.check(trials, 10)


def test_next_trial_with_the_same_demand_does_not_wait_again() -> None:
    cluster, first = Cluster(1, 1), trial(*LARGE)
    cluster.check([first], ROOM_TIMEOUT_S + 10)
    first.set_status(Trial.ERROR)
    cluster.check([first], 10)
    cluster.check([first, trial(*LARGE_TOO)], 5)
    assert list(cluster.watch.no_room) == [first.placement_group_factory]
