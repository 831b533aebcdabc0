"""Convolutions of every kind; a unit is a filter."""

from torch import Tensor, nn

from graftpop.models.layers import CONVOLUTIONS, TRANSPOSED
from graftpop.sites.units import Heads, Units, rows

__all__ = ["units_of"]


def units_of(layer: nn.Module, key: str, weight: Tensor, heads: Heads | None) -> list[Units] | None:
    """Return one unit per output channel.

    A transposed convolution has its output channels on the second axis. With groups, one channel of each group lies in
    the same place there, so a unit is a group with all its output channels.
    """
    del heads
    if key != "weight":
        return None
    if isinstance(layer, CONVOLUTIONS):
        return rows("convolution", weight)
    if not isinstance(layer, TRANSPOSED):
        return None
    num_in, num_out, groups = layer.in_channels, layer.out_channels, layer.groups
    if groups == 1:
        return [Units("convolution", 1, 0, num_out, num_out, 0, num_out)]
    return [Units("convolution", 0, 0, num_in, groups, 0, num_out)]
