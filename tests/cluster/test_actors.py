"""Peers as actors: equal to peers in this process, and never waited for without an end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load as tensors_from_bytes

from graftpop.cluster.actors import RayGroup
from graftpop.cluster.resources import demand_of
from graftpop.errors import PeerError
from graftpop.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.settings import Settings
from graftpop.space import parse_space

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

NUM_PEERS = 3


METHODS: dict[str, dict[str, Any]] = {
    "grafting": {"graft": {}},
    "mutual learning with grafting": {"mutual": {}, "graft": {"level": "filter"}},
    "cultivation with codistillation and measures": {
        "distillation": {"teachers": [{"model": "resnet8", "epochs": 1}]}, "mutual": {"exchange": "snapshots"},
        "graft": {"criterion": "l1"}, "population": {"topology": "all", "output": "greedy_soup"},
        "measures": {"pairs": True}},
}


def settings(method: str = "grafting") -> Settings:
    tree = METHODS[method]
    return parse_space({
        "data": {"name": "digits"},
        "model": {"name": "resnet8"},
        "training": {"epochs": 3, "batch_size": 128, "lr": 0.05},
        **tree,
        "population": {"num_peers": NUM_PEERS, "diversity": "learning_rate", **tree.get("population", {})},
    }).settle()


@pytest.fixture
def group(connection: Any, request: pytest.FixtureRequest) -> Iterator[RayGroup]:
    from ray.util import placement_group, remove_placement_group

    chosen = settings(getattr(request, "param", "grafting"))
    demand = demand_of(NUM_PEERS, chosen.resources, connection.nodes)
    place = placement_group(demand.bundles[1:])
    actors = RayGroup(chosen, demand, place, "study/trial")
    yield actors
    actors.close()
    remove_placement_group(place)


@pytest.mark.parametrize(("group", "method"), [(method, method) for method in METHODS], indirect=["group"])
def test_actors_give_the_tensors_and_records_of_peers_in_this_process(group: RayGroup, method: str) -> None:
    torch.set_num_threads(1)  # as an actor of one core has: how a sum is split among threads changes its last bits
    chosen = settings(method)
    local = Population(LocalGroup([Peer(chosen, peer) for peer in range(NUM_PEERS)]), chosen)
    remote = Population(group, chosen)
    for _ in range(3):
        expected, got = local.step(), remote.step()
        assert (got.grafts, got.measures) == (expected.grafts, expected.measures)
        untimed = {"images_per_s", "train_s", "exchange_s"}
        assert [{key: value for key, value in row.items() if key not in untimed} for row in got.peers] == [
            {key: value for key, value in row.items() if key not in untimed} for row in expected.peers]
    assert remote.finish(got) == local.finish(expected)
    assert remote.save_teachers() == local.save_teachers()
    for (peer, expected_state), (_, state) in zip(local.save(), remote.save(), strict=True):
        expected_tensors, tensors = tensors_from_bytes(expected_state), tensors_from_bytes(state)
        assert tensors.keys() == expected_tensors.keys()
        for name, tensor in tensors.items():
            assert tensor.equal(expected_tensors[name]), f"peer {peer}: {name}"


@pytest.mark.parametrize("group", ["mutual learning with grafting"], indirect=True)
def test_who_meets_with_a_lost_peer_names_it_and_does_not_wait(group: RayGroup) -> None:
    pids = dict(group.run("process_id", dict.fromkeys(range(NUM_PEERS), ()), limit_s=120))
    population = Population(group, settings("mutual learning with grafting"))
    population.step()  # they have met
    threading.Timer(1.0, os.kill, (pids[1], signal.SIGKILL)).start()
    start = time.monotonic()
    outcomes = list(group.run("train", dict.fromkeys(range(NUM_PEERS), (1000,)), limit_s=120))
    assert time.monotonic() - start < 60
    assert outcomes[0][0] == 1
    assert "peer 1: lost in 'train'" in str(outcomes[0][1])
    assert all(isinstance(outcome, PeerError) for _, outcome in outcomes)


def test_a_peer_whose_process_ends_is_named(group: RayGroup) -> None:
    pids = dict(group.run("process_id", dict.fromkeys(range(NUM_PEERS), ()), limit_s=120))
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(PeerError, match="peer 1: lost in 'train'"):
        Population(group, settings()).step()


def test_a_lost_donor_is_named_and_not_its_receiver(group: RayGroup) -> None:
    calls = dict.fromkeys(range(NUM_PEERS), ())
    pids = dict(group.run("process_id", calls, limit_s=120))
    os.kill(pids[0], signal.SIGKILL)
    handles = dict(group.run("publish", calls, limit_s=120, hold=True))
    ((_, outcome),) = group.run("graft", {1: (handles[0],)}, limit_s=120)
    assert isinstance(outcome, PeerError)
    assert "peer 0: lost in 'graft'" in str(outcome)


def test_a_wait_ends_at_its_limit_and_names_who_was_missing(group: RayGroup) -> None:
    outcomes = dict(group.run("train", {2: (1000,)}, limit_s=0.5))
    assert isinstance(outcomes[2], PeerError)
    assert "peer 2: did not finish 'train' within 0.5 s" in str(outcomes[2])
