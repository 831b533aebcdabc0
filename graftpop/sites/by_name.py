"""The sites of a state dict, by names and shapes of its tensors.

A state dict cannot be run. With the network itself, `find_sites` knows its layers, and the weight that each
normalization belongs to.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from graftpop.sites.find import ENOUGH
from graftpop.sites.units import long_axes

__all__ = ["FLOATS", "convolutions_of", "convolutions_suffice", "share_of", "units_first", "weights_of"]

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

STATISTICS: Final = ("running_mean", "running_var")
"""Floating-point buffers of normalization layers. All other floating-point tensors count as parameters."""


def convolutions_of(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights of two-dimensional convolutions, transposed ones included, in order.

    These are all floating-point entries `weight` with four dimensions. A state dict shows nothing more: the weight of a
    one-dimensional convolution looks like other tensors.

    Args:
        state: a state dict.
    """
    return [name for name in _floats_of(state) if _is_convolution(name, state[name])]


def weights_of(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights of all layers, in order.

    These are the convolutions and all other floating-point tensors with at least two axes longer than one: Linear
    layers, embeddings, query, key and value as one matrix, convolutions of one and three dimensions.

    Args:
        state: a state dict.
    """
    return [
        name for name in _floats_of(state) if len(long_axes(state[name])) >= 2 or _is_convolution(name, state[name])
    ]


def convolutions_suffice(state: Mapping[str, Tensor]) -> bool:
    """Return whether the convolutions of a state dict hold at least 90 % of its parameters."""
    return share_of(state, convolutions_of(state)) >= ENOUGH


def share_of(state: Mapping[str, Tensor], names: Iterable[str]) -> float:
    """Return the share of a state dict's parameters that some of its tensors hold, in [0, 1]."""
    total = sum(state[name].numel() for name in _floats_of(state) if name.rpartition(".")[2] not in STATISTICS)
    return sum(state[name].numel() for name in names) / total if total else 0.0


def units_first(name: str, weight: Tensor) -> Tensor:
    """Return a weight with its unit axis first: axis 0, or for a table (positions) the first axis longer than one.

    Args:
        name: its name in the state dict.
        weight: one of `weights_of`.
    """
    return weight if _is_weight(name) else weight.movedim(long_axes(weight)[0], 0)


def _floats_of(state: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if tensor.dtype in FLOATS and tensor.numel()]


def _is_convolution(name: str, tensor: Tensor) -> bool:
    return _is_weight(name) and tensor.dim() == 4


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"
