"""Division of a weight tensor into units, the interface of the kinds of sites."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from graftpop.sites.site import SiteKind

__all__ = ["Heads", "Units", "UnitsOf", "long_axes", "rows"]


class Heads(NamedTuple):
    """Attention heads in the output of a layer: `num_parts` (query, key, value) times `num_heads`, in this order."""

    num_parts: int
    num_heads: int


class Units(NamedTuple):
    """Equal blocks along one axis of a tensor.

    Attributes:
        kind: kind of the site.
        axis: the unit axis.
        start: first index of the blocks on it.
        length: number of indices of all blocks together.
        num_units: number of blocks.
        first_channel: first of the layer's output channels that the blocks compute.
        num_channels: number of these channels; bias and normalization have one entry per channel.
        suffix: distinguishes the parts of one tensor, `q`; empty if there is one.
    """

    kind: SiteKind
    axis: int
    start: int
    length: int
    num_units: int
    first_channel: int
    num_channels: int
    suffix: str = ""


UnitsOf = Callable[[nn.Module, str, Tensor, Heads | None], list[Units] | None]
"""Maps a layer, the name of one of its tensors, the tensor, and the heads that the layer's output was split into, to
the units of the tensor; None if the tensor is of another kind."""


def rows(kind: SiteKind, weight: Tensor) -> list[Units]:
    """Return one unit per index of a tensor's first axis, each computing one output channel."""
    return [Units(kind, 0, 0, len(weight), len(weight), 0, len(weight))]


def long_axes(tensor: Tensor) -> list[int]:
    """Return the axes of a tensor that are longer than one; a vector has one, whatever its shape."""
    return [axis for axis, length in enumerate(tensor.shape) if length > 1]
