"""The groups of units that pruning ranks and drops together, and the size of a network without some of them."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.flops import count_flops, flops_by_weight
from graftpop.sites import ChannelGroup, Site
from graftpop.sites.channel_groups import find_channel_groups
from graftpop.training.removal import remove_dropped, zero_units_

__all__ = ["Size", "UnitGroup", "find_unit_groups"]


@dataclass(frozen=True)
class UnitGroup:
    """Units that are ranked together, and dropped in every layer that computes them.

    Attributes:
        members: the site's unit for each of the group's units, (U,), by the index of the site; of every site that
            computes them.
        channels: the places of the units in the network; None if they may not be removable.
    """

    members: Mapping[int, Tensor]
    channels: ChannelGroup | None = None

    @property
    def num_units(self) -> int:
        """Number of units, U."""
        return len(next(iter(self.members.values())))


def find_unit_groups(
    network: nn.Module,
    sites: Sequence[Site],
    image_shape: tuple[int, ...],
    name: str,
    coupled: Literal["apart", "sum", "skip"],
) -> list[UnitGroup]:
    """Return the groups of units of a network, in the order of their first site.

    Args:
        network: the network; not changed.
        sites: the sites whose units may be dropped, in module order.
        image_shape: (C, H, W) of its images.
        name: the user's name of the network, used in messages.
        coupled: apart: each site is a group. sum: the units that can be removed, of all sites that compute the same
            channels together. skip: as sum, without units whose channels several layers compute and add up; a depthwise
            convolution belongs to the layer before it.

    Raises:
        ModelError: no units can be removed, or the network cannot be followed.
    """
    if coupled == "apart":
        return [UnitGroup({index: torch.arange(site.num_units)}) for index, site in enumerate(sites)]
    groups = [
        UnitGroup(members, channels)
        for channels in find_channel_groups(network, image_shape, name)
        if (members := _members(channels, sites))
        and (coupled == "sum" or sum(not _is_depthwise(network, sites[index]) for index in members) == 1)
    ]
    groups = _removable(network, sites, sorted(groups, key=lambda group: min(group.members)), image_shape, name)
    if not groups:
        raise ModelError(
            f"model.name: '{name}' must have units that can be removed for pruning.coupled: {coupled}, got none; set "
            f"pruning.coupled: apart, or choose another network"
        )
    return groups


def _members(channels: ChannelGroup, sites: Sequence[Site]) -> Mapping[int, Tensor]:
    """Return the sites that compute some channels; none if one of them also computes others."""
    members: dict[int, Tensor] = {}
    positions = {(place.tensor, place.axis): place.positions for place in channels.places}
    for index, site in enumerate(sites):
        units = positions.get((site.weight.tensor, site.weight.axis))
        if units is None:
            continue
        if site.weight.axis != 0 or not site.num_units == site.weight.length == units.numel() == channels.num_units:
            return {}
        members[index] = units[:, 0]
    return members


def _is_depthwise(network: nn.Module, site: Site) -> bool:
    module = network.get_submodule(site.layer)
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _removable(
    network: nn.Module, sites: Sequence[Site], groups: Sequence[UnitGroup], image_shape: tuple[int, ...], name: str
) -> list[UnitGroup]:
    """Return the groups that lose a unit if it is dropped, in one trial with a unit of each."""
    trial = copy.deepcopy(network)
    for group in groups:
        for index, units in group.members.items():
            zero_units_(trial, sites[index], units[:1])
    small, _ = remove_dropped(trial, list(sites), image_shape, name)

    def is_shorter(index: int) -> bool:
        return len(small.get_parameter(sites[index].weight.tensor)) < sites[index].num_units

    return [group for group in groups if all(map(is_shorter, group.members))]


class Size:
    """The size of a network without some units of its groups, computed without a removal.

        left_t = product over axes a of (1 - sum over groups g of share_atg * counts_g)      of each tensor t
        share left = sum over t of weight_t * left_t, plus what no group changes, relative to the whole network

    share_atg is the share of t's axis a that one unit of g takes, and weight_t the parameters or FLOPs of t. Dimensions
    in names: A axes, T tensors, G groups.

    Args:
        network: the whole network.
        groups: groups with channels.
        image_shape: (C, H, W) of its images.
    """

    def __init__(self, network: nn.Module, groups: Sequence[UnitGroup], image_shape: tuple[int, ...]) -> None:
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        rows = {name: row for row, name in enumerate(shapes)}
        axes = max(map(len, shapes.values()))
        self._share_of_unit_ATG = torch.zeros(axes, len(shapes), len(groups), dtype=torch.float64)
        for column, group in enumerate(groups):
            assert group.channels is not None, "groups whose units may not be removable have no size"
            for name, axis, positions in group.channels.places:
                if name in shapes:
                    share = positions.shape[1] / shapes[name][axis]
                    self._share_of_unit_ATG[axis, rows[name], column] += share
        flops = flops_by_weight(network, image_shape)
        of_tensors = {
            "flops": [flops.get(name, 0) for name in shapes],
            "parameters": [math.prod(shape) for shape in shapes.values()],
        }
        self._weights_T = {kind: torch.tensor(sizes, dtype=torch.float64) for kind, sizes in of_tensors.items()}
        self._elsewhere = {"flops": count_flops(network, image_shape) - sum(of_tensors["flops"]), "parameters": 0}

    def share_left(self, kind: Literal["flops", "parameters"], counts: Sequence[int]) -> float:
        """Return the share of the FLOPs or the parameters that is left without some units of each group."""
        return float(self.smooth_share_left(kind, torch.tensor(counts, dtype=torch.float64)))

    def smooth_share_left(self, kind: Literal["flops", "parameters"], counts: Tensor) -> Tensor:
        """Return the same for numbers of units that need not be whole, with a graph.

        Args:
            kind: what is counted.
            counts: (G,) float64 on the CPU, each from 0 to the number of units of its group.

        Returns:
            () float64, in [0, 1].
        """
        left_T = (1 - self._share_of_unit_ATG @ counts).prod(0)
        weights_T, elsewhere = self._weights_T[kind], self._elsewhere[kind]
        share: Tensor = (weights_T @ left_T + elsewhere) / (weights_T.sum() + elsewhere)
        return share
