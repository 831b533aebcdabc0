"""Groups of units that are removed together, and the size of a network without some of them."""

import copy
import random
from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models import build
from graftpop.models.flops import count_flops, count_parameters
from graftpop.peer.sites import rankable
from graftpop.seeds import seeded
from graftpop.sites import Site, find_sites
from graftpop.training.removal import remove_dropped, zero_units_
from graftpop.training.unit_groups import Size, UnitGroup, find_unit_groups

pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")

SMALL = (3, 16, 16)
Coupled = Literal["apart", "sum", "skip"]


class Projected(nn.Module):
    """Two residual blocks with projections, so that what writes to the stream can be removed together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.inner_norm = nn.Conv2d(6, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.outer, self.outer_norm = nn.Conv2d(10, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.side, self.side_norm = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        out = self.outer_norm(self.outer(self.inner_norm(self.inner(x)).relu()))
        result: Tensor = self.head((out + self.side_norm(self.side(x))).relu().mean((2, 3)))
        return result


class Flattened(nn.Sequential):
    """Convolutions and Linear layers, with four inputs of the first Linear layer for each channel."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        )
        self.extend([nn.Flatten(), nn.Linear(36, 11), nn.ReLU(), nn.Linear(11, 10)])


class NormalizedTwice(nn.Sequential):
    """A second BatchNorm turns the dropped channels of the first convolution into constants."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU())
        self.extend([nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        self.append(nn.Linear(6, 10))


class Shuffled(nn.Sequential):
    """Four channels of the first convolution become one channel of the second."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(4, 6, 3))
        self.extend([nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)])


class Correlated(nn.Module):
    """Part of its arithmetic is a product of activations, which no weight takes part in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)
        self.head = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second_norm(self.second(self.first_norm(self.first(x)).relu())).flatten(2)
        result: Tensor = self.head((out @ out.transpose(1, 2)).flatten(1))
        return result


OWN = {
    "projected": Projected,
    "flattened": Flattened,
    "normalized twice": NormalizedTwice,
    "shuffled": Shuffled,
    "correlated": Correlated,
}


@cache
def parts_of(name: str, coupled: Coupled) -> tuple[nn.Module, list[Site], list[UnitGroup]]:
    with seeded(0, torch.device("cpu")):
        network = OWN[name]() if name in OWN else build(name, 10)
    sites = rankable(find_sites(network, SMALL, name, "all"))
    return network, sites, find_unit_groups(network, sites, SMALL, name, coupled)


def names_of(sites: list[Site], groups: list[UnitGroup]) -> list[list[str]]:
    return [[sites[index].name for index in group.members] for group in groups]


BLOCKS = [["layer1.0.conv1"], ["layer2.0.conv1"], ["layer3.0.conv1"]]


@pytest.mark.parametrize(
    ("name", "coupled", "expected"),
    [
        ("resnet8", "skip", BLOCKS),
        ("resnet8", "sum", BLOCKS),  # the stream cannot be cut, since padding enlarges it
        ("projected", "skip", [["stem"], ["inner"]]),
        ("projected", "sum", [["stem"], ["inner"], ["outer", "side"]]),
        ("normalized twice", "sum", [["5"]]),
        ("shuffled", "sum", [["4"]]),
        ("projected", "apart", [["stem"], ["inner"], ["outer"], ["side"]]),
    ],
)
def test_groups_hold_the_layers_that_are_cut_together(name: str, coupled: Coupled, expected: list[list[str]]) -> None:
    _, sites, groups = parts_of(name, coupled)
    assert names_of(sites, groups) == expected
    assert all(len(units) == group.num_units for group in groups for units in group.members.values())
    assert all(sites[index].num_units == group.num_units for group in groups for index in group.members)


def test_depthwise_convolution_belongs_to_the_layer_before_it() -> None:
    _, sites, groups = parts_of("mobilenetv2", "skip")
    names = names_of(sites, groups)
    assert len(names) > 10
    assert sum(len(group) == 2 for group in names) > 10
    assert not any("conv3" in name for group in names for name in group)  # which write to the stream


@pytest.mark.parametrize(
    ("name", "coupled"),
    [("resnet8", "skip"), ("flattened", "sum"), ("projected", "sum"), ("correlated", "sum"), ("mobilenetv2", "skip")],
)
def test_size_equals_that_of_the_network_after_the_removal(name: str, coupled: Coupled) -> None:
    whole, sites, groups = parts_of(name, coupled)
    network = copy.deepcopy(whole)
    draw = random.Random(0)
    counts = [draw.randrange(group.num_units) for group in groups]
    for group, count in zip(groups, counts, strict=True):
        chosen = torch.tensor(draw.sample(range(group.num_units), count), dtype=torch.int64)
        for index, units in group.members.items():
            zero_units_(network, sites[index], units[chosen])
    small, _ = remove_dropped(network, sites, SMALL, name)
    size = Size(network, groups, SMALL)
    flops, parameters = (count_flops(one, SMALL) for one in (small, network)), map(count_parameters, (small, network))
    assert size.share_left("flops", counts) == pytest.approx(next(flops) / next(flops), rel=1e-9)
    assert size.share_left("parameters", counts) == pytest.approx(next(parameters) / next(parameters), rel=1e-9)
    assert size.share_left("flops", [0] * len(groups)) == size.share_left("parameters", [0] * len(groups)) == 1.0


@pytest.mark.parametrize("kind", ["flops", "parameters"])
def test_size_of_parts_of_units_is_smooth(kind: Literal["flops", "parameters"]) -> None:
    """It goes through the sizes of whole units, and its slope is right between them."""
    network, _, groups = parts_of("projected", "sum")
    size = Size(network, groups, SMALL)
    lower, upper = [[num if index == group else 2 for index in range(3)] for group in [1] for num in (3, 4)]
    middle = torch.tensor([2, 3.25, 2], dtype=torch.float64)
    expected = 0.75 * size.share_left(kind, lower) + 0.25 * size.share_left(kind, upper)  # linear in one layer
    assert float(size.smooth_share_left(kind, middle)) == pytest.approx(expected, rel=1e-9)
    counts = torch.tensor([1.5, 3.25, 2.75], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda counts: size.smooth_share_left(kind, counts), counts)


def test_network_without_removable_units_is_refused() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    sites = rankable(find_sites(network, SMALL, "grouped", "all"))
    with pytest.raises(ModelError, match=r"'grouped'.*pruning\.coupled: skip.*apart"):
        find_unit_groups(network, sites, SMALL, "grouped", "skip")
