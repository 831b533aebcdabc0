"""Slow and obvious versions of the formulas, written from the papers and the released code.

Nothing here is imported by graftpop, and nothing of graftpop is imported here.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

Site = tuple[str, str]
"""Module names of a convolution and of its BatchNorm."""


def entropy(weights: ArrayLike, num_bins: int = 10) -> float:
    """Return - sum p_k log p_k over equal bins of [min, max], each with its left edge, the last with both."""
    values = np.asarray(weights, dtype=np.float64).ravel()
    low, high = values.min(), values.max()
    if low == high:
        return 0.0
    total = 0.0
    for k in range(num_bins):
        left, right = low + (high - low) * k / num_bins, low + (high - low) * (k + 1) / num_bins
        inside = (values >= left) & ((values < right) | (k == num_bins - 1))
        count = np.count_nonzero(inside)
        if count > 0:
            share = count / len(values)
            total -= share * math.log(share)
    return total


def adaptive_alpha(receiver_entropy: float, donor_entropy: float, A: float, c: float) -> float:
    return A / math.pi * math.atan(c * (receiver_entropy - donor_entropy)) + 0.5


def alpha_as_printed(receiver_entropy: float, donor_entropy: float, A: float, c: float) -> float:
    """Return alpha by the formula in the papers' text, which has no 1 / pi."""
    return A * math.atan(c * (receiver_entropy - donor_entropy)) + 0.5


def blend(receiver: NDArray[np.float64], donor: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Return alpha * receiver + (1 - alpha) * donor, element by element."""
    blended = np.empty(receiver.shape)
    for place in np.ndindex(receiver.shape):
        blended[place] = alpha * receiver[place] + (1 - alpha) * donor[place]
    return blended


def filter_l1_norms(weight: NDArray[np.float64]) -> list[float]:
    return [sum(abs(value) for value in a_filter.ravel()) for a_filter in weight]


def site_of_each(keys: Sequence[str], sites: Sequence[Site]) -> dict[str, int]:
    """Return the site of each entry of a state: its own, else the last one before it."""
    chosen = {}
    last = 0
    for key in keys:
        for index, modules in enumerate(sites):
            if key.rpartition(".")[0] in modules:
                last = chosen[key] = index
        chosen.setdefault(key, last)
    return chosen


def site_graft(
    receiver: Mapping[str, Tensor], donor: Mapping[str, Tensor], alphas: Sequence[float], sites: Sequence[Site]
) -> dict[str, NDArray[np.float64]]:
    """Return the receiver's state after a layer-level graft, in float64; integers stay the receiver's."""
    site_of = site_of_each(list(receiver), sites)
    grafted = {}
    for key in receiver:
        ours, theirs, alpha = receiver[key].double().numpy(), donor[key].double().numpy(), alphas[site_of[key]]
        grafted[key] = alpha * ours + (1 - alpha) * theirs if receiver[key].is_floating_point() else ours
    return grafted


def released_entropy(weight: Tensor, num_bins: int = 10) -> float:
    """Return the released code's entropy: half-open bins, all arithmetic in float32, bin by bin.

    It starts from the integer 0 and would fail on a constant tensor, whose every bin is empty; here that is 0.
    """
    values = weight.reshape(-1)
    scale = (values.max() - values.min()) / num_bins
    total = torch.tensor(0.0)
    for k in range(num_bins):
        inside = (values >= values.min() + k * scale) & (values < values.min() + (k + 1) * scale)
        share = torch.sum(inside, dtype=torch.float32) / len(values)
        if share != 0:
            total = total - share * torch.log(share)
    return float(total)


def released_share_in_bins(weight: Tensor, num_bins: int = 10) -> float:
    """Return the share of values in the half-open bins: below 1 if the largest is in none."""
    values = weight.reshape(-1)
    scale = (values.max() - values.min()) / num_bins
    return sum(
        int(torch.sum((values >= values.min() + k * scale) & (values < values.min() + (k + 1) * scale)))
        for k in range(num_bins)
    ) / len(values)


def released_alpha(receiver_entropy: float, donor_entropy: float, A: float, c: float) -> float:
    return float(round(A / np.pi * np.arctan(c * (receiver_entropy - donor_entropy)) + 0.5, 2))


def released_graft(receiver: nn.Module, donor: Mapping[str, Tensor], A: float, c: float) -> dict[str, float]:
    """Graft a module as the released code does, and return alpha by the keys with an alpha of their own.

    A key with 'conv' in it computes alpha, every other reuses the last one; every entry is blended, integers as
    floats, and `load_state_dict` copies the result into the module, by which integers are truncated.
    """
    alphas: dict[str, float] = {}
    grafted = {}
    for key, ours in receiver.state_dict().items():
        if "conv" in key:
            alpha = alphas[key] = released_alpha(released_entropy(ours), released_entropy(donor[key]), A, c)
        grafted[key] = ours * alpha + donor[key] * (1 - alpha)
    receiver.load_state_dict(grafted)
    return alphas
