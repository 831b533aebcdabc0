"""`population.repair`: the statistics of BatchNorm after an exchange."""

from typing import Any

import pytest
import torch
from network_makers import TwoSites, few_digits
from population_makers import States, local_population, networks, same
from space_makers import assert_refused, make_settings
from torch import nn

from graftpop.errors import ModelError
from graftpop.peer.sites import sites_of
from graftpop.seeds import derive

TREE: dict[str, Any] = {"graft": {"alpha": 0.3}, "population": {"num_peers": 2}, "training": {"epochs": 2}}
CPU = torch.device("cpu")


def blended(repair: bool) -> States:
    """Return the peers' networks after the exchange of the first of two rounds."""
    population = local_population(make_settings(TREE, population={"repair": repair}))
    assert population.step().grafts
    return networks(population)


def parts(states: States, *, are_statistics: bool) -> States:
    return {
        peer: {name: tensor for name, tensor in state.items() if ("running_" in name) == are_statistics}
        for peer, state in states.items()
    }


def test_repair_changes_the_statistics_of_batchnorm_alone() -> None:
    plain, repaired = blended(repair=False), blended(repair=True)
    for are_statistics in (False, True):
        of_plain, of_repaired = (parts(one, are_statistics=are_statistics) for one in (plain, repaired))
        assert same(of_repaired, of_plain) != are_statistics


@pytest.mark.parametrize("peer", [0, 1])
def test_repaired_layers_have_the_blended_mean_and_deviation(peer: int) -> None:
    """Behind a BatchNorm they are its shift and its scale, which are blended like all weights."""
    far = {True: 0.0, False: 0.0}
    for repair in far:
        network = TwoSites(10)
        state = {name.removeprefix("network/"): tensor for name, tensor in blended(repair)[peer].items()}
        network.load_state_dict(state)
        network.eval()
        seen: dict[nn.Module, list[torch.Tensor]] = {network.bn1: [], network.bn2: []}
        for norm, outputs in seen.items():
            norm.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output.detach()))
        for images, _ in few_digits().train.training_batches(64, derive(0, "recalibration", peer), CPU):
            network(images)
        for norm, outputs in seen.items():
            channels = torch.cat(outputs).movedim(1, 0).flatten(1)
            assert isinstance(norm, nn.BatchNorm2d)
            gaps = [channels.mean(1) - norm.bias.detach(), channels.std(1) - norm.weight.detach().abs()]
            far[repair] = max(far[repair], *(float(gap.abs().max()) for gap in gaps))
    assert far[True] < 0.05
    assert far[False] > 4 * far[True]


def test_network_without_batchnorm_is_refused() -> None:
    settings = make_settings(TREE, population={"repair": True}, graft={"sites": "all"})
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ModelError, match=r"population\.repair"):
        sites_of(settings, network, (3, 32, 32))


@pytest.mark.parametrize("others", ["", "papa: {}, ", "graft: {source: noise}, "])
def test_repair_needs_exchanges_after_rounds(others: str) -> None:
    steps = ", exchange_every: 10" if "papa" in others else ""
    assert_refused(f"{{{others}population: {{repair: true{steps}}}}}", "population.repair", "got true")
