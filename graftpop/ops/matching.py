"""Matching of units, one to one."""

import torch
from torch import Tensor

__all__ = ["best_matching"]


def best_matching(similarity: Tensor) -> Tensor:
    """Return the permutation p that maximizes the sum of similarity[u, p[u]], (U,) int64, on its device.

    >>> best_matching(torch.tensor([[1.0, 5.0], [4.0, 6.0]]))
    tensor([1, 0])

    Args:
        similarity: (U, U), of each unit of one network (rows) with each of another; finite.

    References:
        Crouse, On implementing 2D rectangular assignment algorithms, 2016, in scipy.optimize.linear_sum_assignment.
    """
    from scipy.optimize import linear_sum_assignment  # half a second, which every peer would pay

    columns = linear_sum_assignment(similarity.double().cpu().numpy(), maximize=True)[1]
    return torch.from_numpy(columns).to(similarity.device, torch.int64)
