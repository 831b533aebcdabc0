"""Groups of channels: a permutation of their units leaves the outputs of a network as they are."""

import pytest
import torch
from network_makers import seeded_network, seeded_small_net
from site_networks import NETWORKS, site_network
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.forward_check import eval_copy
from graftpop.sites import ChannelGroup
from graftpop.sites.channel_groups import (
    ChannelPlace,
    find_channel_groups,
    permutable_share,
    permute_,
    unchanged_groups,
)

SHAPE = (3, 8, 8)


def shuffled(network: nn.Module, groups: list[ChannelGroup]) -> nn.Module:
    """Return a copy of a network with the units of each group in another order."""
    copy = eval_copy(network, "network")
    tensors = {name: tensor.detach() for name, tensor in copy.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for group in groups:
        permute_(tensors, group, torch.randperm(group.num_units, generator=generator))
    return copy


def outputs(network: nn.Module) -> Tensor:
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    found: Tensor = eval_copy(network, "network").double()(images.double())
    return found


WITHOUT_GROUPS = {"Parametrized", "Recurrent", "Tables"}


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - WITHOUT_GROUPS | {"resnet8"}))
def test_permuted_networks_have_equal_outputs(name: str) -> None:
    network = site_network(name) if name in NETWORKS else seeded_network(name)
    groups = find_channel_groups(network, SHAPE, name)
    before = outputs(network)
    copy = shuffled(network, groups)
    assert any(not tensor.equal(copy.state_dict()[key]) for key, tensor in network.state_dict().items())
    assert torch.allclose(outputs(copy), before, rtol=1e-6, atol=1e-9)


def test_residual_network_has_groups_within_and_across_its_blocks() -> None:
    """resnet8: the channels of the three padded streams, and those within the three blocks."""
    network = seeded_network("resnet8")
    groups = find_channel_groups(network, SHAPE, "resnet8")
    assert sorted(group.num_units for group in groups) == [16, 16, 16, 32, 32, 64]
    assert permutable_share(network, groups) > 0.999


def test_attention_heads_move_as_wholes() -> None:
    groups = find_channel_groups(site_network("Chunked"), SHAPE, "Chunked")
    places = {(place.tensor, place.axis): place.positions for group in groups for place in group.places}
    name = next(name for name, axis in places if "qkv" in name and axis == 0)
    num_heads, per_head = places[name, 0].shape
    assert num_heads > 1
    assert per_head % 3 == 0  # queries, keys and values


class FixedScale(nn.Module):
    """Multiplies its channels by numbers of its code, and reads half of the others by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled, self.free, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 4, 3), nn.Linear(10, 5)

    def forward(self, images: Tensor) -> Tensor:
        scaled = self.scaled(images) * torch.arange(1, 7, dtype=images.dtype).view(6, 1, 1)
        logits: Tensor = self.head(torch.cat([scaled, self.free(images)], 1).relu().mean((2, 3)))
        return logits


def test_channels_with_places_in_the_code_stay() -> None:
    groups = find_channel_groups(FixedScale(), SHAPE, "FixedScale")
    assert [group.num_units for group in groups] == [4]


class Auxiliary(nn.Module):
    """Has a classifier that acts in training only, behind dropout and a BatchNorm that one image leaves no variance."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.auxiliary = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).relu()
        logits: Tensor = self.head(self.body(features).relu().mean((2, 3)))
        return logits + self.auxiliary(features.mean((2, 3))) if self.training else logits


def test_layers_that_act_in_training_only_move_too() -> None:
    groups = find_channel_groups(Auxiliary(), (3, 8, 8), "network")
    (of_stem,) = ({place.tensor for place in group.places} for group in groups if group.places[0].tensor[:4] == "stem")
    moved = {"stem.weight", "stem.bias", "body.weight", "auxiliary.2.weight"}
    assert of_stem == moved | {f"auxiliary.0.{name}" for name in ("weight", "bias", "running_mean", "running_var")}


def test_groups_that_change_the_outputs_are_dropped() -> None:
    network = seeded_small_net(0)
    (right,) = find_channel_groups(network, SHAPE, "network")
    without_norm = ChannelGroup(16, tuple(place for place in right.places if not place.tensor.startswith("1.")))
    outputs_of = ChannelGroup(10, (ChannelPlace("6.weight", 0, torch.arange(10)[:, None]),))
    assert unchanged_groups(eval_copy(network, "network"), [without_norm, right, outputs_of], SHAPE) == [right]


@pytest.mark.parametrize("name", sorted(WITHOUT_GROUPS))
def test_network_without_permutable_channels_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"^model\.name: '{name}' .*align"):
        find_channel_groups(site_network(name), SHAPE, name)
