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

COUNTED: Final = 2**16
"""Values that a CPU bins and counts at a time; they stay in its cache."""

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

    On a CPU a layer's bins are counted one value after the other, which is faster than `torch.histc` for large layers.
    Elsewhere the counts are sums of comparisons, in which the host never waits and the order of threads has no effect.
    Both are the counts of `torch.histc`.

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
    """Return the number of values (N,) in each bin, int64 (num_bins,)."""
    low, high = torch.aminmax(values)
    parts = [_bins(part, low, high - low, num_bins) for part in values.split(COUNTED)]
    return torch.stack([torch.bincount(part, minlength=num_bins) for part in parts]).sum(0)


def _sums_of_comparisons(values: Tensor, num_bins: int) -> Tensor:
    """Return the number of values (N,) in each bin, int64 (num_bins,)."""
    low, high = torch.aminmax(values)
    bin_of = _bins(values, low, high - low, num_bins)
    bins = torch.arange(num_bins, dtype=bin_of.dtype, device=values.device)[:, None]
    return torch.stack([(part == bins).sum(1) for part in bin_of.split(COMPARED)]).sum(0)


def _bins(values: Tensor, low: Tensor, spread: Tensor, num_bins: int) -> Tensor:
    """Return the bin of every value, computed in float32, as small integers; a constant tensor (0 / 0) is in bin 0."""
    bins = (values - low).mul_(num_bins).div_(spread).nan_to_num_(0.0).clamp_(0, num_bins - 1)
    return bins.to(torch.uint8 if num_bins <= 256 else torch.int16)


def _entropy_of_counts(counts_LB: Tensor) -> Tensor:
    probability_LB = counts_LB.double() / counts_LB.sum(1, keepdim=True)
    # + 0.0 turns the -0.0 of a constant tensor into 0.0
    return -torch.xlogy(probability_LB, probability_LB).sum(1) + 0.0
