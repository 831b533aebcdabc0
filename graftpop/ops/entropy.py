"""The entropy of the histogram of a layer's weights, which measures the information it carries.

A tensor's range [min, max] has `num_bins` equal bins, the last one closed. With p_k the share of values in bin k

    H = - sum_k p_k log p_k        in nats, 0 <= H <= log(num_bins)

The bin of x is floor((x - min) * num_bins / (max - min)) in float32, as in `torch.histc`. H is invariant under a
permutation, a shift and a positive scaling of the weights. A constant tensor has H = 0; two equally frequent values
have H = log 2 = 0.693.

References:
    Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, section 3.4; the number of bins (10) and the
    natural logarithm come from the released code, whose open last bin is in `released.py`.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["entropy", "filter_entropies", "layer_entropies"]

EXACT_COUNT: Final = 2**24
"""Largest number of values in a call of `torch.histc`: it counts in float32, where 2**24 + 1 is 2**24."""

COMPARED: Final = 2**20
"""Values that are compared with all bins at a time, to bound the memory."""


def entropy(weight: Tensor, num_bins: int = 10) -> Tensor:
    """Return the entropy of all weights of one layer together, in nats.

    Args:
        weight: any shape, at least one element, finite.
        num_bins: number of equal bins, at least 2.

    Returns:
        A float64 scalar tensor in [0, log(num_bins)].
    """
    return layer_entropies([weight], num_bins)[0]


def filter_entropies(weight: Tensor, num_bins: int = 10) -> Tensor:
    """Return the entropy of each filter by itself, in nats.

    Args:
        weight: (O, ...), one row per filter.
        num_bins: number of equal bins, at least 2.

    Returns:
        (O,) float64, each in [0, log(num_bins)].
    """
    values_OK = weight.detach().float().flatten(1)
    low_O, high_O = torch.aminmax(values_OK, dim=1)
    bins_OK = _bins(values_OK, low_O[:, None], (high_O - low_O)[:, None], num_bins).long()
    counts_OB = torch.zeros(len(weight), num_bins, dtype=torch.int64, device=weight.device)
    counts_OB.scatter_add_(1, bins_OK, torch.ones_like(bins_OK))
    return _entropy_of_counts(counts_OB)


def layer_entropies(weights: Sequence[Tensor], num_bins: int = 10) -> Tensor:
    """Return the entropy of each of many layers, in nats.

    On a CPU a layer's counts come from `torch.histc`, the fastest way. Elsewhere they are sums of comparisons, in which
    the host never waits and the order of threads has no effect. Both give the same counts.

    Args:
        weights: L tensors of any shapes on one device, each with at least one element.
        num_bins: number of equal bins, at least 2.

    Returns:
        (L,) float64 on the device of the weights, each in [0, log(num_bins)].
    """
    counts_of = _histogram if weights[0].device.type == "cpu" else _sums_of_comparisons
    return _entropy_of_counts(
        torch.stack([counts_of(weight.detach().float().flatten(), num_bins) for weight in weights])
    )


def _histogram(values: Tensor, num_bins: int) -> Tensor:
    """Return the number of values (N,) in each bin, float64 (num_bins,), by `torch.histc`."""
    if len(values) <= EXACT_COUNT:
        return torch.histc(values, num_bins).double()
    low, high = (bound.item() for bound in torch.aminmax(values))
    return torch.stack([torch.histc(part, num_bins, low, high).double() for part in values.split(EXACT_COUNT)]).sum(0)


def _sums_of_comparisons(values: Tensor, num_bins: int) -> Tensor:
    """Return the number of values (N,) in each bin, int64 (num_bins,)."""
    low, high = torch.aminmax(values)
    bins = torch.arange(num_bins, device=values.device)[:, None]
    parts = _bins(values, low, high - low, num_bins).split(COMPARED)
    return torch.stack([(part == bins).sum(1) for part in parts]).sum(0)


def _bins(values: Tensor, low: Tensor, spread: Tensor, num_bins: int) -> Tensor:
    """Return the bin of every value, in float32; a constant tensor (0 / 0) falls into one bin."""
    return ((values - low) * num_bins / spread).nan_to_num_(0.0).clamp_(0, num_bins - 1).floor_()


def _entropy_of_counts(counts_LB: Tensor) -> Tensor:
    probability_LB = counts_LB.double() / counts_LB.sum(1, keepdim=True)
    # + 0.0 turns the -0.0 of a constant tensor into 0.0
    return -torch.xlogy(probability_LB, probability_LB).sum(1) + 0.0
