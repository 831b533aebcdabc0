"""Peers as actors equal peers in this process, and every wait has a time limit."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load as tensors_from_bytes
from timings import untimed
from user_parts import Net, adam_outside_actors, digits

import graftpop
from graftpop.cluster.actors import RayGroup
from graftpop.cluster.resources import Node, ResourceRequest, resource_request
from graftpop.errors import CollectiveError, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.peer.peer import Peer
from graftpop.population import Event, LocalGroup, Population
from graftpop.population.roster import Roster
from graftpop.settings import Settings
from graftpop.settings.training import ModelSettings
from graftpop.space import parse_space

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

NUM_PEERS = 3
NUM_CPUS = 4.0  # of the fixture `connection`


CULTIVATION = "cultivation with codistillation and diagnostics"
METHODS: dict[str, dict[str, Any]] = {
    "grafting": {"graft": {}},
    "mutual learning with grafting": {"mutual": {}, "graft": {"level": "filter"}},
    CULTIVATION: {
        "distillation": {"teachers": [{"model": "resnet8", "epochs": 1}]},
        "mutual": {"exchange": "snapshots"},
        "graft": {"criterion": "l1"},
        "align": {},
        "population": {"topology": "all", "output": "greedy_soup"},
        "diagnostics": {"pairs": True},
    },
}
IN_SHARED_PROCESSES = "grafting in shared processes"
IN_STEPS = "mutual learning with a user-defined rule in steps"
METHODS[IN_STEPS] = {
    "mutual": {},
    "exchange": "python:user_parts.Pull",
    "population": {"exchange_every": 2, "topology": "all"},
}
METHODS[IN_SHARED_PROCESSES] = {"graft": {}, "population": {"peers_per_actor": 2}, "resources": {"cpus_per_peer": 0.5}}
COMMON_EPOCHS: dict[str, dict[str, Any]] = {
    "branch": {"graft": {}, "population": {"branch_at": 0.4}},
    "post-local SGD": {
        "outer": {"lr": 1.0, "momentum": 0.0},
        "population": {"sync_until": 0.4, "exchange_every": 2, "diversity": "none"},
    },
}
METHODS |= COMMON_EPOCHS
ASYNC = "asynchronous grafting"
ASYNC_METHODS = {ASYNC: {"graft": {}, "training": {"epochs": 8}, "population": {"mode": "async", "max_staleness": 2}}}


def settings(method: str = "grafting") -> Settings:
    tree = (METHODS | ASYNC_METHODS)[method]
    return parse_space(
        {
            "data": {"name": "digits", "max_train_images": 400},
            "model": {"name": "resnet8"},
            **tree,
            "training": {"epochs": 3, "batch_size": 128, "lr": 0.05, **tree.get("training", {})},
            "population": {"num_peers": NUM_PEERS, "diversity": "learning_rate", **tree.get("population", {})},
        }
    ).resolve()


def request_for(method: str) -> ResourceRequest:
    return resource_request(settings(method), [Node(NUM_CPUS, 0.0)])


class ReusedGroup:
    """Reuses a group's processes from test to test, because they start slowly."""

    def __init__(self) -> None:
        self._group: RayGroup | None = None
        self._bundles: list[dict[str, float]] = []

    def of(self, method: str) -> RayGroup:
        from ray.util import placement_group

        resources = request_for(method)
        if self._group is not None and self._bundles == resources.bundles:
            self._group.reassign(settings(method), resources, "trial")
            return self._group
        self.close()
        self._place, self._bundles = placement_group(resources.bundles), resources.bundles
        self._group = RayGroup(settings(method), resources, self._place, "trial")
        return self._group

    def close(self) -> None:
        from ray.util import remove_placement_group

        if self._group is not None:
            self._group.close()
            remove_placement_group(self._place)


@pytest.fixture(scope="module")
def reused_group(connection: Any) -> Iterator[ReusedGroup]:
    reused = ReusedGroup()
    yield reused
    reused.close()


@pytest.fixture
def group(reused_group: ReusedGroup, request: pytest.FixtureRequest) -> RayGroup:
    return reused_group.of(getattr(request, "param", "grafting"))


@pytest.mark.parametrize("group", [CULTIVATION], indirect=True)
def test_actors_equal_peers_in_this_process(group: RayGroup) -> None:
    """The tests of reassigned processes below compare the other methods."""
    assert_equal_to_peers_in_this_process(group, settings(CULTIVATION))


def assert_equal_to_peers_in_this_process(group: RayGroup, chosen: Settings) -> None:
    torch.set_num_threads(1)  # like an actor of one core: the number of threads changes the last bits of a sum
    local = Population(LocalGroup(partial(Peer, chosen), NUM_PEERS), chosen)
    remote = Population(group, chosen)
    for _ in range(3):
        expected, got = local.step(), remote.step()
        assert (got.grafts, got.diagnostics) == (expected.grafts, expected.diagnostics)
        assert list(map(untimed, got.peers)) == list(map(untimed, expected.peers))
    assert remote.finish(got) == local.finish(expected)
    assert remote.save_teachers() == local.save_teachers()
    for (peer, expected_state), (_, state) in zip(local.save(), remote.save(), strict=True):
        expected_tensors, tensors = tensors_from_bytes(expected_state), tensors_from_bytes(state)
        assert tensors.keys() == expected_tensors.keys()
        for name, tensor in tensors.items():
            assert tensor.equal(expected_tensors[name]), f"peer {peer}: {name}"


@pytest.mark.parametrize("method", COMMON_EPOCHS)
def test_actors_with_common_epochs_equal_peers_in_this_process(reused_group: ReusedGroup, method: str) -> None:
    assert_equal_to_peers_in_this_process(reused_group.of(method), settings(method))


def pids_of(group: RayGroup) -> dict[int, int]:
    return dict(sorted(group.run("process_id", dict.fromkeys(range(NUM_PEERS), ()), timeout_s=120)))


@pytest.mark.parametrize("group", ["mutual learning with grafting"], indirect=True)
def test_processes_are_reused_by_the_next_trial(group: RayGroup) -> None:
    Population(group, settings("mutual learning with grafting")).step()  # creates the process group
    first = pids_of(group)
    group.reassign(settings("grafting"), request_for("grafting"), "next")
    assert pids_of(group) == first
    assert_equal_to_peers_in_this_process(group, settings("grafting"))
    group.start(1, "train", (1000,), timeout_s=600)
    os.kill(first[2], signal.SIGKILL)
    group.reassign(settings("mutual learning with grafting"), request_for("mutual learning with grafting"), "last")
    last = pids_of(group)
    assert [last[peer] == first[peer] for peer in range(NUM_PEERS)] == [True, False, False]
    assert_equal_to_peers_in_this_process(group, settings("mutual learning with grafting"))


@pytest.mark.parametrize("group", ["mutual learning with grafting"], indirect=True)
def test_peers_listen_where_their_cluster_does(group: RayGroup) -> None:
    """The fixture's cluster listens on the loopback interface."""
    Population(group, settings("mutual learning with grafting")).step()
    processes = psutil.Process().children(recursive=True)
    addresses = [
        [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        for process in processes
        if process.name().startswith("ray::") and "Peer" in process.name()
    ]
    assert len(addresses) == NUM_PEERS
    assert {address.removeprefix("::ffff:") for found in addresses for address in found} == {"127.0.0.1"}
    assert sum(map(len, addresses)) >= 2 * NUM_PEERS + 1  # for calls; for collectives; and the first peer's store


@pytest.mark.parametrize("group", ["mutual learning with grafting"], indirect=True)
def test_ranks_follow_peer_order_after_a_restart(group: RayGroup) -> None:
    group.dismiss([0])
    group.reassign(settings("mutual learning with grafting"), request_for("mutual learning with grafting"), "next")
    assert_equal_to_peers_in_this_process(group, settings("mutual learning with grafting"))


@pytest.mark.parametrize("group", ["mutual learning with grafting"], indirect=True)
def test_collective_with_a_lost_peer_fails_at_once(group: RayGroup) -> None:
    Population(group, settings("mutual learning with grafting")).step()  # creates the process group
    threading.Timer(1.0, os.kill, (pids_of(group)[1], signal.SIGKILL)).start()
    start = time.monotonic()
    outcomes = list(group.run("train", dict.fromkeys(range(NUM_PEERS), (1000,)), timeout_s=120))
    assert time.monotonic() - start < 60
    assert outcomes[0][0] == 1
    assert "peer 1: lost in 'train'" in str(outcomes[0][1])
    assert [type(outcome) for _, outcome in outcomes] == [PeerLost, CollectiveError, CollectiveError]


@pytest.mark.parametrize("group", [ASYNC], indirect=True)
def test_async_peers_continue_beside_slow_and_lost_peers(group: RayGroup) -> None:
    chosen = settings(ASYNC)
    events: list[Event] = []
    population = Population(group, chosen, events.append)
    rounds = [population.step()]
    pids = pids_of(group)
    os.kill(pids[2], signal.SIGSTOP)
    threading.Timer(6.0, os.kill, (pids[2], signal.SIGCONT)).start()
    rounds += [population.step() for _ in range(3)]
    os.kill(pids[1], signal.SIGKILL)
    rounds += [population.step() for _ in range(4)]
    assert [[row["peer"] for row in done.peers] for done in rounds] == [[0, 1, 2]] * 8
    assert all({row["epoch"] for row in done.peers} == {done.round} for done in rounds)
    staleness = [stale for done in rounds[:-1] for stale in done.grafts["staleness"]]
    assert max(staleness) == 2  # peer 0 while peer 2, its donor, was stopped
    assert min(staleness) < 0
    assert [(event.peer, event.event) for event in events] == [(1, "lost"), (1, "replaced")]
    outcome = population.finish(rounds[-1])
    assert (outcome["best_peer"], outcome["val_accuracy"]) == (rounds[-1].best_peer, rounds[-1].score)
    assert all(
        last["train_loss"] < first["train_loss"] for first, last in zip(rounds[0].peers, rounds[-1].peers, strict=True)
    )


def test_hanging_peer_is_replaced_at_the_deadline(group: RayGroup) -> None:
    chosen = settings()
    population_settings = chosen.population.model_copy(update={"round_timeout_s": 8.0})
    events: list[Event] = []
    population = Population(group, chosen.model_copy(update={"population": population_settings}), events.append)
    pid = pids_of(group)[2]
    os.kill(pid, signal.SIGSTOP)
    done = population.step()
    assert [row["peer"] for row in done.peers] == [0, 1, 2]
    lost, replaced = events
    assert (lost.peer, lost.event, replaced.event) == (2, "lost", "replaced")
    assert lost.cause.startswith("peer 2: did not finish 'save' within 8 s")
    assert not os.path.exists(f"/proc/{pid}") or "zombie" in Path(f"/proc/{pid}/status").read_text()


def test_lost_peer_and_its_lost_result_are_reported(group: RayGroup) -> None:
    calls = dict.fromkeys(range(NUM_PEERS), ())
    os.kill(pids_of(group)[0], signal.SIGKILL)
    outcomes = dict(group.run("publish", calls, timeout_s=120, result_mode="ref"))
    assert isinstance(outcomes[0], PeerLost)
    assert str(outcomes[0]).startswith("peer 0: lost in 'publish': ")
    handle = group._actors[0].call.remote(0, "publish")  # its process is gone
    ((_, outcome),) = group.run("exchange", {1: (handle,)}, timeout_s=120)
    assert isinstance(outcome, ResultLost)
    assert str(outcome).startswith("peer 1: ")
    assert "'exchange'" in str(outcome)


def test_timed_out_call_names_the_peer(group: RayGroup) -> None:
    pid = pids_of(group)[2]
    outcomes = dict(group.run("train", {2: (1000,)}, timeout_s=0.5))
    os.kill(pid, signal.SIGKILL)  # the next test need not wait for it
    assert isinstance(outcomes[2], PeerLost)
    assert "peer 2: did not finish 'train' within 0.5 s" in str(outcomes[2])


def test_durable_results_outlive_their_peer(group: RayGroup) -> None:
    assert group.get(group.put(b"state")) == b"state"
    saved = dict(group.run("save", {0: ()}, timeout_s=120, result_mode="durable"))
    os.kill(pids_of(group)[0], signal.SIGKILL)
    tensors = tensors_from_bytes(group.get(saved[0]))
    assert int(tensors["epoch"]) == 0
    group.restart([0])
    assert dict(group.run("load", {0: (saved[0],)}, timeout_s=120)) == {0: None}


def test_lost_durable_result_loses_the_population(group: RayGroup) -> None:
    """The checkpoint that needs it fails with the reason, and the trial resumes from the one before."""
    import ray

    class Owner:
        def put(self) -> Any:
            return [ray.put(b"state" * 10**5)]

    owner: Any = ray.remote(num_cpus=0)(Owner).remote()
    (handle,) = ray.get(owner.put.remote())
    ray.kill(owner)
    deadline = time.monotonic() + 60

    def wait_for_loss() -> None:
        while time.monotonic() < deadline:
            group.get(handle)
            time.sleep(0.1)

    with pytest.raises(PopulationLost, match=r"^trial trial: "):
        wait_for_loss()


def test_peer_without_room_within_the_timeout_is_absent(group: RayGroup) -> None:
    for timeout_s, absent in ((0.01, [1]), (60.0, [])):
        population = settings().population.model_copy(update={"replace_timeout_s": timeout_s})
        roster = Roster(group, population, lambda event: None)
        roster.lose(1, PeerLost("peer 1: is lost"), 1)
        assert roster.start_anew([1]) == absent


def test_peer_refuses_classes_that_its_process_cannot_import(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, module = type("Hidden", (Net,), {"__module__": "only_here"}), ModuleType("only_here")
    monkeypatch.setattr(module, "Hidden", hidden, raising=False)
    monkeypatch.setitem(sys.modules, "only_here", module)
    train, test = digits()
    # one peer: the reused group leaves one CPU
    population = graftpop.Population(
        hidden, train, test, classes=list("0123456789"), population={"num_peers": 1}, on_ray=True
    )
    with pytest.raises(PeerError, match=r"^peer \d: [^\n]*No module named 'only_here'"):
        next(population.run())


def test_peer_whose_network_cannot_be_imported_fails_at_once(reused_group: ReusedGroup) -> None:
    """Raised by the actor's constructor, the error would be retried until the replacement timeout, half an hour."""
    group, request = reused_group.of(IN_SHARED_PROCESSES), request_for(IN_SHARED_PROCESSES)
    known = settings(IN_SHARED_PROCESSES)
    unknown = known.model_copy(update={"model": ModelSettings(name="python:only_here.Net")})
    group.reassign(unknown, request, "trial")
    result = dict(group.run("process_id", {0: ()}, 60))[0]
    assert isinstance(result, PeerError)
    assert not isinstance(result, PeerLost)
    assert re.search(r"^peer 0, 1: model\.name: [^\n]*'only_here'", str(result))
    group.reassign(known, request, "next")
    assert isinstance(dict(group.run("process_id", {0: ()}, 60))[0], int)


def test_peer_whose_optimizer_cannot_be_built_fails_at_once(connection: Any) -> None:
    train, test = digits()
    population = graftpop.Population(
        Net,
        train,
        test,
        classes=list("0123456789"),
        optimizer=adam_outside_actors,
        population={"num_peers": 1},
        on_ray=True,
    )
    with pytest.raises(PeerError, match=r"^peer 0: [^\n]*FileNotFoundError: rates\.txt"):
        next(population.run())


@pytest.mark.parametrize(
    ("group", "method"),
    [(method, method) for method in (IN_STEPS, IN_SHARED_PROCESSES)],  # test_chaos kills peers that graft after rounds
    indirect=["group"],
)
def test_killed_peers_do_not_change_the_result(group: RayGroup, method: str) -> None:
    torch.set_num_threads(1)
    chosen = settings(method)
    local = Population(LocalGroup(partial(Peer, chosen), NUM_PEERS), chosen)
    events: list[Event] = []
    remote = Population(group, chosen, events.append)
    for round_ in range(3):
        expected = local.step()
        if round_ == 1:
            pids = pids_of(group)
            os.kill(pids[1], signal.SIGKILL)
            threading.Timer(0.3, os.kill, (pids[2], signal.SIGKILL)).start()  # while it trains
        got = remote.step()
        assert (got.grafts, got.diagnostics) == (expected.grafts, expected.diagnostics)
    assert {(event.round, event.peer, event.event) for event in events} >= {
        (2, 1, "lost"),
        (2, 2, "lost"),
        (2, 1, "replaced"),
        (2, 2, "replaced"),
    }
    assert ((2, 0, "replaced") in {(event.round, event.peer, event.event) for event in events}) == (
        method == IN_SHARED_PROCESSES
    )
    assert all(
        "SIGKILL" in event.cause
        or "unexpected" in event.cause
        or "connection" in event.cause
        or (method == IN_SHARED_PROCESSES and event.cause.endswith("lost with another peer of its process"))
        for event in events
        if event.event == "lost"
    ), events
    os.kill(pids_of(group)[0], signal.SIGKILL)
    assert remote.finish(got) == local.finish(expected)
    for (peer, expected_state), (_, state) in zip(local.save(), remote.save(), strict=True):
        expected_tensors, tensors = tensors_from_bytes(expected_state), tensors_from_bytes(state)
        assert tensors.keys() == expected_tensors.keys()
        assert all(tensor.equal(expected_tensors[name]) for name, tensor in tensors.items()), f"peer {peer}"


@pytest.mark.parametrize("group", [IN_SHARED_PROCESSES], indirect=True)
def test_next_trial_may_place_other_peers_in_the_bundles(group: RayGroup) -> None:
    first = pids_of(group)
    fewer = settings(IN_SHARED_PROCESSES)
    fewer = fewer.model_copy(
        update={"population": fewer.population.model_copy(update={"num_peers": 2, "peers_per_actor": 1})}
    )
    group.reassign(fewer, ResourceRequest(2, 0.75, 0.0), "next")
    assert dict(sorted(group.run("process_id", {0: (), 1: ()}, timeout_s=120))) == {0: first[0], 1: first[2]}
    group.reassign(settings(IN_SHARED_PROCESSES), request_for(IN_SHARED_PROCESSES), "last")
    assert pids_of(group) == first
    assert_equal_to_peers_in_this_process(group, settings(IN_SHARED_PROCESSES))


@pytest.mark.parametrize("group", [IN_SHARED_PROCESSES], indirect=True)
def test_peers_of_one_process_are_lost_together(group: RayGroup) -> None:
    first = pids_of(group)
    assert first[0] == first[1] != first[2]
    assert [group.coresident([peer]) for peer in range(NUM_PEERS)] == [{0, 1}, {0, 1}, {2}]
    os.kill(first[1], signal.SIGKILL)
    lost = dict(group.run("train", dict.fromkeys(range(NUM_PEERS), (1,)), timeout_s=120))
    assert [isinstance(lost[peer], PeerLost) for peer in range(NUM_PEERS)] == [True, True, False]
    group.restart([0, 1])
    second = pids_of(group)
    assert second[0] == second[1] != first[1]
    assert second[2] == first[2]
    group.dismiss([0])
    assert group.coresident([1]) == {1}
    assert dict(group.run("process_id", {1: ()}, timeout_s=120)) == {1: second[1]}
    group.dismiss([1])
    group.reassign(settings(IN_SHARED_PROCESSES), request_for(IN_SHARED_PROCESSES), "next")
    third = pids_of(group)
    assert third[0] == third[1] != second[1]
    assert third[2] == first[2]
