"""Resource requests of trials: `auto` shares the cluster among all peers; impossible requests are refused."""

import math
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graftpop.cluster import resources as cluster_resources
from graftpop.cluster.resources import Node, ResourceRequest, bundles_text, cluster_text, fits, peers_at_once
from graftpop.errors import ResourceError, SpaceError
from graftpop.settings import ResourceSettings, Settings
from graftpop.space import parse_space

SHARES = {1: 1.0, 2: 0.5, 3: 0.3333, 4: 0.25, 5: 0.2, 6: 0.1666, 7: 0.1428, 8: 0.125}  # 1/n in Ray's ten-thousandths
LAPTOP = [Node(2, 0)]
WORKSTATION = [Node(16, 2)]
CLUSTER = [Node(4, 0), Node(8, 1), Node(8, 1)]
AUTO = ResourceSettings()

NODES = st.lists(st.builds(Node, st.integers(0, 64).map(float), st.integers(0, 8).map(float)), min_size=1, max_size=5)
CPUS = st.just("auto") | st.sampled_from([0.1, 0.25, 0.5, 2 / 3, 1, 2, 3.5])
GPUS = st.just("auto") | st.sampled_from([0, 0.25, 0.5, 1, 2])
RESOURCES = st.builds(lambda cpus, gpus: ResourceSettings(cpus_per_peer=cpus, gpus_per_peer=gpus), CPUS, GPUS)


def resource_request(
    num_peers: int, resources: ResourceSettings, nodes: list[Node], peers_per_actor: Any = "auto"
) -> ResourceRequest:
    return cluster_resources.resource_request(
        Settings.model_validate(
            {"population": {"num_peers": num_peers, "peers_per_actor": peers_per_actor}, "resources": resources}
        ),
        nodes,
    )


def per_peer(num_peers: int, nodes: list[Node], **resources: Any) -> tuple[float, float]:
    request = resource_request(num_peers, ResourceSettings(**resources), nodes)
    return request.cpus_per_peer, request.gpus_per_peer


def all_fit(bundles: list[dict[str, float]], nodes: list[Node]) -> bool:
    """Return whether the bundles fit one after the other, in whole ten-thousandths as Ray counts."""
    free = [{"CPU": round(1e4 * node.cpus), "GPU": round(1e4 * node.gpus)} for node in nodes]
    for bundle in bundles:
        wanted = {kind: round(1e4 * amount) for kind, amount in bundle.items()}
        place = next((node for node in free if all(node[kind] >= amount for kind, amount in wanted.items())), None)
        if place is None:
            return False
        for kind, amount in wanted.items():
            place[kind] -= amount
    return True


@pytest.mark.parametrize(
    ("nodes", "sharing"),
    [
        (LAPTOP, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]),
        ([Node(1, 0), Node(1, 0)], [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]),
        ([Node(3, 0), Node(2, 0)], [1] * 5 + [2] * 5 + [3] * 5 + [4]),
        ([Node(16, 0)], [1] * 16),
    ],
)
def test_auto_gives_whole_cores_or_equal_shares(nodes: list[Node], sharing: list[int]) -> None:
    assert [per_peer(num_peers, nodes) for num_peers in range(1, 17)] == [(SHARES[n], 0.0) for n in sharing]


@pytest.mark.parametrize(
    ("nodes", "cores", "gpus"),
    [
        (WORKSTATION, [1] * 16, [n for n in range(1, 9) for _ in range(2)]),
        (CLUSTER, [1] * 16, [n for n in range(1, 9) for _ in range(2)]),
        ([Node(2, 1)], [1, 1, 2, 2, 3, 3, 4, 4], range(1, 9)),
    ],
)
def test_auto_gives_whole_gpus_or_equal_shares(nodes: list[Node], cores: list[int], gpus: list[int]) -> None:
    assert [per_peer(num_peers, nodes) for num_peers in range(1, len(cores) + 1)] == [
        (SHARES[core], SHARES[gpu]) for core, gpu in zip(cores, gpus, strict=True)
    ]


def test_gpu_peers_ignore_cores_of_nodes_without_gpus() -> None:
    """Sixteen peers share four GPUs and the eight cores of their node; the head node's cores do not count."""
    assert per_peer(16, [Node(64, 0), Node(8, 4)]) == (0.5, 0.25)


def test_auto_shares_a_gpu_if_requested_cores_require_it() -> None:
    assert per_peer(4, [Node(64, 1), Node(4, 8)], cpus_per_peer=4) == (4, SHARES[3])


def test_explicit_resources_are_unchanged() -> None:
    assert per_peer(2, WORKSTATION, cpus_per_peer=3, gpus_per_peer=0.5) == (3, 0.5)
    assert per_peer(2, WORKSTATION, gpus_per_peer=0) == (1.0, 0.0)
    assert per_peer(1, LAPTOP, cpus_per_peer=0.1) == (0.1, 0.0)


def test_each_actor_has_one_bundle() -> None:
    assert resource_request(3, AUTO, LAPTOP).bundles == 3 * [{"CPU": 0.5}]
    assert resource_request(2, AUTO, WORKSTATION).bundles == 2 * [{"CPU": 1.0, "GPU": 1.0}]
    assert resource_request(5, AUTO, LAPTOP, 2).actors == [range(2), range(2, 4), range(4, 5)]
    assert resource_request(5, AUTO, LAPTOP, 2).bundles == 2 * [{"CPU": 0.6666}] + [{"CPU": 0.3333}]
    assert resource_request(4, AUTO, [Node(8, 1)], 4).bundles == [{"CPU": 4.0, "GPU": 1.0}]
    assert resource_request(2, AUTO, LAPTOP, 7).actors == [range(2)]
    assert resource_request(3, ResourceSettings(cpus_per_peer=2 / 3), LAPTOP).bundles == 3 * [{"CPU": 0.6666}]
    assert resource_request(3, ResourceSettings(cpus_per_peer=2 / 3), LAPTOP, 3).bundles == [{"CPU": 2.0}]


@pytest.mark.parametrize(
    ("nodes", "sharing_a_process"),
    [
        (LAPTOP, {2: 1, 3: 1, 4: 2, 5: 1, 6: 3, 8: 4, 9: 1, 15: 1, 16: 8, 17: 9, 32: 16, 33: 17, 1000: 500}),
        ([Node(3, 0), Node(1, 0)], {4: 1, 6: 1, 8: 2, 12: 3}),
        ([Node(2, 1)], {2: 1, 4: 1, 8: 1}),
    ],
)
def test_auto_shares_processes_if_cores_have_equally_many_peers(
    nodes: list[Node], sharing_a_process: dict[int, int]
) -> None:
    assert {
        num_peers: resource_request(num_peers, AUTO, nodes).peers_per_actor for num_peers in sharing_a_process
    } == sharing_a_process
    explicit = ResourceSettings(cpus_per_peer=0.25)
    assert {
        resource_request(num_peers, explicit, nodes).peers_per_actor
        for num_peers in sharing_a_process
        if num_peers <= 8
    } == {1}


def test_peers_above_eight_per_core_are_spread_over_all_cores() -> None:
    request = resource_request(33, AUTO, LAPTOP)
    assert [len(peers) for peers in request.actors] == [17, 16]
    assert all_fit(request.bundles, LAPTOP)
    assert len(resource_request(64, AUTO, LAPTOP, 4).bundles) == 16


@pytest.mark.parametrize(("nodes", "peers_per_actor"), [(LAPTOP, 1), ([Node(2, 4)], "auto")])
def test_more_than_eight_processes_per_core_are_refused(nodes: list[Node], peers_per_actor: Any) -> None:
    assert len(resource_request(16, AUTO, nodes, peers_per_actor).bundles) == 16
    with pytest.raises(ResourceError, match="room for 16"):
        resource_request(17, AUTO, nodes, peers_per_actor)


def test_auto_counts_whole_cores_alone() -> None:
    assert resource_request(4, AUTO, [Node(1.5, 0), Node(1.5, 0)]).peers_per_actor == 2


def test_peers_per_actor_are_at_most_all_peers() -> None:
    half = ResourceSettings(gpus_per_peer=0.5)
    assert resource_request(2, half, [Node(2, 1)], 7) == ResourceRequest(2, 1.0, 0.5, 2)


@pytest.mark.parametrize(("num_peers", "share"), [(3, 0.1), (3, 0.2), (7, 0.1), (7, 0.7)])
def test_rounding_of_shares_loses_nothing(num_peers: int, share: float) -> None:
    """In floating point 0.6 / 0.2 is below 3, and 7 * 0.7 below 4.9."""
    amount = round(num_peers * share, 4)
    resources = ResourceSettings(cpus_per_peer=share)
    request = resource_request(num_peers, resources, [Node(amount, 0)], num_peers)
    assert request.bundles == [{"CPU": amount}]


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"population": {"mode": "async", "peers_per_actor": 2}, "graft": {}}, ["population.mode: async", "got 2"]),
        ({"population": {"peers_per_actor": 2}, "mutual": {}}, ["mutual.exchange: logits", "got 2"]),
        (
            {"population": {"peers_per_actor": 3}, "resources": {"gpus_per_peer": 0.5}},
            ["got 3 peers of 0.5 each", "at most 2", "resources.gpus_per_peer"],
        ),
    ],
)
def test_invalid_peers_per_actor_is_refused(tree: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(tree)
    message = str(caught.value)
    assert message.startswith("space: population.peers_per_actor: ")
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


def test_peers_that_must_not_wait_have_own_processes() -> None:
    alone: list[dict[str, Any]] = [{"population": {"mode": "async"}, "graft": {}}, {"mutual": {}}]
    for tree in alone:
        assert parse_space(tree).resolve().peers_per_actor == 1
    for tree in ({"mutual": {"exchange": "snapshots"}}, {"population": {"peers_per_actor": "auto"}}):
        assert parse_space(tree).resolve().peers_per_actor == "auto"
    assert parse_space({"population": {"peers_per_actor": 2}}).resolve().peers_per_actor == 2


@given(st.integers(1, 40), RESOURCES, NODES, st.just("auto") | st.integers(1, 8))
def test_accepted_requests_fit_and_refused_ones_do_not(
    num_peers: int, resources: ResourceSettings, nodes: list[Node], peers_per_actor: Any
) -> None:
    gpus = resources.gpus_per_peer
    assume("auto" in (gpus, peers_per_actor) or gpus % 1 == 0 or peers_per_actor * gpus <= 1)
    try:
        request = resource_request(num_peers, resources, nodes, peers_per_actor)
    except ResourceError as error:
        room = re.search(r"has room for (\w+);", str(error))
        assert room is not None
        num_fitting = 0 if room.group(1) == "none" else int(room.group(1))
        assert num_fitting < num_peers
        if num_fitting:
            assert all_fit(resource_request(num_fitting, resources, nodes, peers_per_actor).bundles, nodes)
    else:
        assert all_fit(request.bundles, nodes)
        assert [peer for peers in request.actors for peer in peers] == list(range(num_peers))
        assert len(request.bundles) == len(request.actors)
        assert peers_per_actor != 1 or len(request.bundles) == num_peers
        assert all(bundle.get("GPU", 0) <= 1 or bundle["GPU"] % 1 == 0 for bundle in request.bundles)


@given(st.integers(1, 20), RESOURCES, NODES, NODES)
def test_request_fits_other_nodes_as_ray_counts(
    num_peers: int, resources: ResourceSettings, nodes: list[Node], left: list[Node]
) -> None:
    try:
        request = resource_request(num_peers, resources, nodes)
    except ResourceError:
        return
    assert fits([{"node:10.0.0.1": 1e-4}, *request.bundles], left) == all_fit(request.bundles, left)


def test_bundles_and_nodes_are_described() -> None:
    request = resource_request(5, ResourceSettings(cpus_per_peer=0.5, gpus_per_peer=0.25), CLUSTER, 2)
    assert (
        bundles_text([{}, *request.bundles]) == "2 processes of 1 CPU and 0.5 GPU and 1 process of 0.5 CPU and 0.25 GPU"
    )
    assert (cluster_text(CLUSTER), cluster_text(LAPTOP)) == ("3 nodes, 20 CPU, 2 GPU", "1 node, 2 CPU, 0 GPU")


@given(st.integers(1, 40), RESOURCES, NODES)
def test_auto_is_refused_only_if_no_equal_shares_fit(
    num_peers: int, resources: ResourceSettings, nodes: list[Node]
) -> None:
    has_gpus = any(node.gpus for node in nodes) and resources.gpus_per_peer != 0
    cpus = [math.floor(1e4 / sharing) / 1e4 for sharing in range(1, (8 if has_gpus else max(num_peers, 8)) + 1)]
    if resources.cpus_per_peer != "auto":
        cpus = [resources.cpus_per_peer]
    gpus: Any = [resources.gpus_per_peer]
    if resources.gpus_per_peer == "auto":
        gpus = SHARES.values() if any(node.gpus for node in nodes) else [0.0]
    can_be_placed = any(all_fit(ResourceRequest(num_peers, core, gpu).bundles, nodes) for core in cpus for gpu in gpus)
    try:
        resource_request(num_peers, resources, nodes)
    except ResourceError:
        assert not can_be_placed
    else:
        assert can_be_placed


@pytest.mark.parametrize(
    ("num_peers", "nodes", "resources", "message"),
    [
        (
            17,
            LAPTOP,
            {"cpus_per_peer": 0.125},
            "17 peers of 0.125 CPU can never be placed on this cluster (1 node, 2 CPU, 0 GPU), which has room "
            "for 16; choose at most 16 peers, or less in ",
        ),
        (
            2,
            LAPTOP,
            {"cpus_per_peer": 2},
            "2 peers of 2 CPU can never be placed on this cluster (1 node, 2 CPU, 0 GPU), "
            "which has room for 1; choose at most 1 peers, or less in ",
        ),
        (
            3,
            CLUSTER,
            {"gpus_per_peer": 1},
            "3 peers of 0.125 CPU and 1 GPU can never be placed on this cluster (3 nodes, "
            "20 CPU, 2 GPU), which has room for 2; choose at most 2 peers, or less in ",
        ),
        (
            1,
            LAPTOP,
            {"gpus_per_peer": 0.5},
            "1 peer of 0.125 CPU and 0.5 GPU can never be placed on this cluster (1 node, "
            "2 CPU, 0 GPU), which has room for none; choose less in ",
        ),
        (
            2,
            [Node(0, 0)],
            {},
            "2 peers of 0.125 CPU can never be placed on this cluster (1 node, 0 CPU, 0 GPU), which has "
            "room for none; choose less in ",
        ),
        (
            1,
            [Node(3, 0), Node(3, 0)],
            {"cpus_per_peer": 4},
            "1 peer of 4 CPU can never be placed on this cluster (2 nodes, "
            "6 CPU, 0 GPU), which has room for none; choose less in ",
        ),
    ],
)
def test_impossible_request_is_refused_with_the_number_that_fits(
    num_peers: int, nodes: list[Node], resources: dict[str, Any], message: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        resource_request(num_peers, ResourceSettings(**resources), nodes)
    assert str(caught.value) == (f"population.num_peers: {message}resources.cpus_per_peer and resources.gpus_per_peer")


@pytest.mark.parametrize("gpus", [1.5, 2.25])
def test_more_than_one_gpu_must_be_a_whole_number(gpus: float) -> None:
    with pytest.raises(
        SpaceError,
        match=rf"resources\.gpus_per_peer: above 1 must be a whole number, got {gpus}; "
        rf"choose {int(gpus)}, {int(gpus) + 1}, or a share of one$",
    ):
        parse_space({"resources": {"gpus_per_peer": gpus}})


def test_request_is_described_in_words() -> None:
    assert str(ResourceRequest(1, 1.0, 0.0)) == "1 peer of 1 CPU"
    assert str(ResourceRequest(4, 0.5, 0.25)) == "4 peers of 0.5 CPU and 0.25 GPU"
    assert str(ResourceRequest(4, 0.5, 0.0, 2)) == "4 peers of 0.5 CPU, 2 to a process"


@pytest.mark.parametrize(
    ("request_", "nodes", "expected"),
    [
        (ResourceRequest(2, 1.0, 0.0), [Node(2, 0)], 2),
        (ResourceRequest(3, 0.5, 0.0), [Node(2, 0)], 2),  # three peers take turns on two cores
        (ResourceRequest(3, 1.0, 0.0), [Node(8, 0)], 6),  # two trials; two cores are idle
        (ResourceRequest(2, 4.0, 0.0), [Node(8, 0), Node(6, 0)], 2),
        (ResourceRequest(4, 0.25, 0.0, 4), [Node(1, 0)], 1),
        (ResourceRequest(4, 1.0, 0.5), [Node(16, 2), Node(16, 0)], 2),
        (ResourceRequest(2, 1.0, 1.0), [Node(16, 5)], 4),
    ],
)
def test_peers_at_once_are_those_with_a_core_or_gpu_of_their_own(
    request_: ResourceRequest, nodes: list[Node], expected: int
) -> None:
    assert peers_at_once(request_, nodes) == expected
