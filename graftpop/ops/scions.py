"""Scions from inside one network: noise, or its own strong filters, for filters that are invalid.

A filter is invalid when its L1 norm is below a threshold. These functions choose the filters that change and their new
weights. The caller decides the share of its own weights that a receiver of an internal scion keeps.

References:
    Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020: noise and internal scions.
"""

import math

import torch
from torch import Tensor

from graftpop.ops.importance import filter_l1_norms

__all__ = ["internal_scions", "noise_deviation", "noise_scions"]


def noise_deviation(base: float, epochs_done: int) -> float:
    """Return the standard deviation of the noise after a number of epochs.

        sigma_t = a ** t

    Args:
        base: the formula's a, in (0, 1). The text gives no value; an early version of the released code had 0.975.
        epochs_done: the formula's t, at least 0.

    Returns:
        In [0, 1]: 1 before the first epoch, falling from there.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0 < base < 1:
        raise ValueError(f"noise_deviation: base must be in (0, 1), got {base=}")
    if epochs_done < 0:
        raise ValueError(f"noise_deviation: epochs_done must be at least 0, got {epochs_done=}")
    return base**epochs_done


def noise_scions(weight: Tensor, threshold: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Return the weights with noise from N(0, sigma ** 2) added to every weight of every invalid filter.

    The noise is drawn for all filters on the CPU. A generator gives the same noise on every device, and has the same
    state afterwards whichever filters are invalid.

    Args:
        weight: (O, ...), float.
        threshold: L1 norm below which a filter is invalid, at least 0.
        sigma: standard deviation of the noise, at least 0.
        generator: on the CPU.

    Returns:
        A new tensor, shape, dtype and device of `weight`, without a graph; valid filters are equal to the bit.

    Raises:
        ValueError: threshold or sigma is outside its range.
    """
    _check_threshold("noise_scions", threshold)
    if not 0 <= sigma < math.inf:
        raise ValueError(f"noise_scions: sigma must be finite and at least 0, got {sigma=}")
    weights = weight.detach()
    noise = torch.randn(weights.shape, generator=generator, dtype=torch.float32).mul_(sigma).to(weights)
    is_invalid_O = filter_l1_norms(weights) < threshold
    return torch.where(is_invalid_O.view(-1, *[1] * (weights.dim() - 1)), weights + noise, weights)


def internal_scions(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the pairs of receiving and donating filters of a layer.

    By L1 norm, the i-th smallest filter receives from the i-th largest while the receiver is invalid and the donor is
    valid, so no filter is both. Among equal norms the lower index comes first, at either end.

    Args:
        weight: (O, ...), float.
        threshold: L1 norm below which a filter is invalid, at least 0.

    Returns:
        Indices of the receivers and of their donors, both (P,) int64 on the device of `weight`, with
        P = min(invalid, valid) <= O // 2.

    Raises:
        ValueError: threshold is outside its range.
    """
    _check_threshold("internal_scions", threshold)
    norms_O = filter_l1_norms(weight)
    num_invalid = int(torch.count_nonzero(norms_O < threshold))
    num_pairs = min(num_invalid, len(norms_O) - num_invalid)
    smallest_first, largest_first = (norms_O.argsort(descending=down, stable=True) for down in (False, True))
    return smallest_first[:num_pairs], largest_first[:num_pairs]


def _check_threshold(where: str, threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"{where}: threshold must be at least 0, got {threshold=}")
