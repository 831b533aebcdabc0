"""Tables: every other tensor with at least two axes, such as an embedding, positions or the weights of a recurrent
layer; a unit is one index of the first axis longer than one."""

from torch import Tensor, nn

from graftpop.sites.units import Heads, Units, long_axes

__all__ = ["units_of"]


def units_of(layer: nn.Module, key: str, weight: Tensor, heads: Heads | None) -> list[Units] | None:
    """Return one unit per index of the first axis longer than one; None for fewer than two such axes."""
    del layer, key, heads
    axes = long_axes(weight)
    if len(axes) < 2:
        return None  # a vector: a scale per channel, a class token
    length = weight.shape[axes[0]]
    return [Units("table", axes[0], 0, length, length, 0, length)]
