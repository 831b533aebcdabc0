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

import torch
from torch import Tensor

__all__ = ["entropy", "filter_entropies", "layer_entropies"]


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
    bins_OK = _bins(values_OK, low_O[:, None], (high_O - low_O)[:, None], num_bins)
    counts_OB = torch.zeros(len(weight), num_bins, dtype=torch.int64, device=weight.device)
    counts_OB.scatter_add_(1, bins_OK, torch.ones_like(bins_OK))
    return _entropy_of_counts(counts_OB)


def layer_entropies(weights: Sequence[Tensor], num_bins: int = 10) -> Tensor:
    """Return the entropy of each of many layers, in nats.

    On a CPU this is one `torch.histc` per layer, the fastest way. Elsewhere it is one pass over all layers together, in
    which the host never waits for a layer. Both give the same counts.

    Args:
        weights: L tensors of any shapes on one device, each with at least one element.
        num_bins: number of equal bins, at least 2.

    Returns:
        (L,) float64 on the device of the weights, each in [0, log(num_bins)].
    """
    flat = [weight.detach().float().flatten() for weight in weights]
    if flat[0].device.type == "cpu":
        return _entropy_of_counts(torch.stack([torch.histc(values, num_bins) for values in flat]))
    return _entropy_of_counts(_joined_counts(flat, num_bins))


def _joined_counts(flat: Sequence[Tensor], num_bins: int) -> Tensor:
    """Return the histograms (L, num_bins) of many flat tensors by one scatter over all values."""
    device = flat[0].device
    low_L, high_L = torch.stack([torch.stack(torch.aminmax(values)) for values in flat]).unbind(1)
    lengths_L = torch.tensor([len(values) for values in flat]).to(device, non_blocking=True)
    values_N = torch.cat(list(flat))

    def spread(of_layer_L: Tensor) -> Tensor:
        return of_layer_L.repeat_interleave(lengths_L, output_size=len(values_N))

    first_bin_N = spread(torch.arange(len(flat), device=device) * num_bins)
    bins_N = _bins(values_N, spread(low_L), spread(high_L - low_L), num_bins) + first_bin_N
    counts = torch.zeros(len(flat) * num_bins, dtype=torch.int64, device=device)
    return counts.scatter_add_(0, bins_N, torch.ones_like(bins_N)).view(len(flat), num_bins)


def _bins(values: Tensor, low: Tensor, spread: Tensor, num_bins: int) -> Tensor:
    """Return the bin of every value; a constant tensor (0 / 0) falls into one bin."""
    return ((values - low) * num_bins / spread).nan_to_num_(0.0).clamp_(0, num_bins - 1).long()


def _entropy_of_counts(counts_LB: Tensor) -> Tensor:
    probability_LB = counts_LB.double() / counts_LB.sum(1, keepdim=True)
    # + 0.0 turns the -0.0 of a constant tensor into 0.0
    return -torch.xlogy(probability_LB, probability_LB).sum(1) + 0.0
