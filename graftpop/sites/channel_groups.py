"""Groups of channels that can be permuted among each other without a change of the network's outputs."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graftpop.errors import ModelError, describe_exception
from graftpop.models.forward_check import blank_images, eval_copy
from graftpop.models.module_check import distinct_state
from graftpop.sites.channel_labels import Channel, coupled_channels

__all__ = ["ChannelGroup", "ChannelPlace", "find_channel_groups", "permutable_share", "permute_", "unchanged_groups"]

TOLERANCE: Final = 1e-8  # of the outputs' largest number, in double precision: only the order of sums differs
FEW_UNITS: Final = 8


class ChannelPlace(NamedTuple):
    """Where the units of a group lie in a tensor.

    Attributes:
        tensor: name of the tensor in the network's state.
        axis: the axis that a permutation acts on.
        positions: (U, K) int64, the K indices of each of the U units along the axis.
    """

    tensor: str
    axis: int
    positions: Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Units that any permutation may reorder, if it does so in every place.

    A unit is a channel, or a block of channels that stay together: an attention head, a group of a grouped convolution.
    """

    num_units: int
    places: tuple[ChannelPlace, ...]


def find_channel_groups(network: nn.Module, image_shape: tuple[int, ...], name: str) -> list[ChannelGroup]:
    """Return the groups of a network, in module order; permuting their units leaves its outputs as they are.

    Units form a group if they lie in the same tensors. Each group is tested: a copy of the network with random weights
    must have the same outputs after a random permutation, otherwise the group is left out.

    Args:
        network: any network; it is not changed.
        image_shape: (C, H, W) of the images it will see.
        name: the user's name of the network, used in messages.

    Raises:
        ModelError: no channels of the network can be permuted.
    """
    where = f"model.name: '{name}'"
    try:
        twin = eval_copy(network, where).cpu()
        groups = unchanged_groups(twin, _grouped(coupled_channels(copy.deepcopy(twin), image_shape)), image_shape)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        raise ModelError(
            f"align: cannot follow the channels of '{name}', got {describe_exception(error)}; choose another network, "
            f"or remove align"
        ) from error
    if not groups:
        raise ModelError(
            f"{where} must have channels that can be permuted for align, between two layers without the order of the "
            f"channels in its code, got none; remove align"
        )
    return groups


def _grouped(units: Sequence[tuple[Channel, ...]]) -> list[ChannelGroup]:
    alike: dict[tuple[tuple[str, int, int], ...], list[tuple[Channel, ...]]] = {}
    for unit in units:
        alike.setdefault(tuple((name, axis, len(positions)) for name, axis, positions in unit), []).append(unit)
    return [
        ChannelGroup(
            len(members),
            tuple(
                ChannelPlace(of_tensor[0].tensor, of_tensor[0].axis, torch.tensor([one.positions for one in of_tensor]))
                for of_tensor in zip(*members, strict=True)
            ),
        )
        for members in alike.values()
        if len(members) > 1
    ]


@torch.no_grad()
def unchanged_groups(
    network: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, ...]
) -> list[ChannelGroup]:
    """Return the groups whose permutation leaves the outputs of a network as they are, in evaluation mode.

    Args:
        network: a copy in evaluation mode on the CPU; its weights become random.
        groups: the groups to test.
        image_shape: (C, H, W) of its images.
    """
    generator = torch.Generator().manual_seed(0)
    network.double()
    tensors = {name: tensor.detach() for name, tensor in distinct_state(network) if tensor.is_floating_point()}
    for tensor in tensors.values():  # constants, such as the scales of BatchNorm, would hide what a permutation does
        is_matrix = sum(length > 1 for length in tensor.shape) > 1 and bool(tensor.ne(tensor.flatten()[0]).any())
        tensor.mul_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
        if not is_matrix:
            tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype), alpha=0.1)
    images = blank_images(network, 2, image_shape)
    if images.is_floating_point():
        images = torch.randn(images.shape, generator=generator).double()

    def outputs() -> Tensor:
        leaves = [leaf for leaf in tree_leaves(network(images)) if isinstance(leaf, Tensor)]
        return torch.cat([leaf.flatten().double() for leaf in leaves])

    expected = outputs()

    def unchanged(some: Sequence[ChannelGroup]) -> list[ChannelGroup]:
        """Return the groups that leave the outputs unchanged: all if they do together, otherwise those of each half."""
        orders = [torch.randperm(group.num_units, generator=generator) for group in some]
        for group, order in zip(some, orders, strict=True):
            if bool(order.equal(torch.arange(group.num_units))):
                order.copy_(order.roll(1))
            permute_(tensors, group, order)
        difference = (outputs() - expected).abs().max()
        for group, order in reversed(list(zip(some, orders, strict=True))):
            permute_(tensors, group, order.argsort())
        if bool(difference <= TOLERANCE * expected.abs().max()):
            return list(some)
        half = len(some) // 2
        return [*unchanged(some[:half]), *unchanged(some[half:])] if half else []

    # two groups of few units might get the same permutation, so that one hides the other's error
    few = [group for group in groups if group.num_units < FEW_UNITS]
    many = [group for group in groups if group.num_units >= FEW_UNITS]
    right = [*(one for group in few for one in unchanged([group])), *(unchanged(many) if many else [])]
    return [group for group in groups if any(group is one for one in right)]


def permute_(tensors: Mapping[str, Tensor], group: ChannelGroup, order: Tensor) -> None:
    """Put unit `order[u]` of a group in the place of unit u, in every tensor.

    Args:
        tensors: tensors of the network's state by name; changed in place.
        group: the group.
        order: (U,) int64, a permutation, on the tensors' device.
    """
    for name, axis, positions in group.places:
        if name in tensors:
            view, positions = tensors[name].movedim(axis, 0), positions.to(order.device)
            view[positions.flatten()] = view[positions[order].flatten()]


def permutable_share(network: nn.Module, groups: Sequence[ChannelGroup]) -> float:
    """Return the share of a network's parameters that a permutation of some group moves, in [0, 1]."""
    parameters = dict(network.named_parameters())
    kept: dict[str, dict[int, float]] = {name: {} for name in parameters}  # share of the indices by axis
    for group in groups:
        for name, axis, positions in group.places:
            if name in kept:
                kept[name][axis] = kept[name].get(axis, 1.0) - positions.numel() / parameters[name].shape[axis]
    total = sum(parameter.numel() for parameter in parameters.values())
    stay = sum(parameters[name].numel() * math.prod(by_axis.values()) for name, by_axis in kept.items())
    return 1 - stay / total
