"""L1 norms of filters, and the count of invalid ones."""

import torch
from torch import Tensor

__all__ = ["INVALID_BELOW", "filter_l1_norms", "num_invalid_filters"]

INVALID_BELOW = 0.1
"""A filter with a smaller L1 norm counts as invalid in the records (the larger of the papers' two thresholds)."""


def filter_l1_norms(weight: Tensor) -> Tensor:
    """Return the L1 norm of each filter, (O,), for weights (O, ...)."""
    return weight.detach().float().abs().reshape(len(weight), -1).sum(1)


def num_invalid_filters(weight: Tensor, threshold: float = INVALID_BELOW) -> Tensor:
    """Return the number of filters with an L1 norm below the threshold, an int64 scalar, for weights (O, ...)."""
    return torch.count_nonzero(filter_l1_norms(weight) < threshold)
