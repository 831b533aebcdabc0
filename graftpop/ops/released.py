"""The released filter-grafting code's numerics, to the last bit, behind `graft.compat: released_code`.

The code departs from the papers' formulas in three ways: the last bin is open, so that the largest weight mostly falls
into no bin and the shares do not add up to 1; alpha is rounded to two decimals; and integer buffers are averaged as
floats and cut back to integers. All of it happens in float32, in the order that is kept here.

References:
    github.com/fxmeng/filter-grafting, grafting_cifar/grafting.py: `entropy`, `grafting`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["released_alpha", "released_blend", "released_entropies", "released_integer_blend"]


def released_entropies(weights: Sequence[Tensor], num_bins: int = 10) -> Tensor:
    """Return the entropy of each tensor with the last bin open, float64 (L,) that holds float32 values.

    A constant tensor gives 0, where the released code ends in an AttributeError.
    """
    return torch.stack([_open_entropy(weight.detach().float().flatten(), num_bins) for weight in weights]).double()


def _open_entropy(values_N: Tensor, num_bins: int) -> Tensor:
    low, high = torch.aminmax(values_N)
    edges_E = low + torch.arange(num_bins + 1, device=values_N.device) * ((high - low) / num_bins)
    num_above_E = torch.count_nonzero(values_N >= edges_E[:, None], dim=1)
    share_B = (num_above_E[:-1] - num_above_E[1:]).float() / len(values_N)
    entropy = torch.zeros((), device=values_N.device)
    for term in (share_B * share_B.log()).nan_to_num(0.0):  # rounding depends on the order: theirs is bin by bin
        entropy = entropy - term
    return entropy


def released_alpha(receiver_entropy: Tensor, donor_entropy: Tensor, *, A: float, c: float) -> Tensor:
    """Return round(A / pi * atan(c * (H_receiver - H_donor)) + 1/2, 2 decimals) in float64."""
    gap = receiver_entropy.double() - donor_entropy.double()
    return torch.round(A / math.pi * torch.atan(c * gap) + 0.5, decimals=2)


def released_blend(receiver: Tensor, donor: Tensor, alpha: Tensor) -> Tensor:
    """Return receiver * alpha + donor * (1 - alpha): two products and a sum, each rounded to float32."""
    return receiver * alpha.to(receiver.dtype) + donor * (1 - alpha).to(receiver.dtype)


def released_integer_blend(receiver: Tensor, donor: Tensor, alpha: Tensor) -> Tensor:
    """Return integer buffers (number of batches seen) averaged as float32 and truncated."""
    return released_blend(receiver.float(), donor.float(), alpha).to(receiver.dtype)
