"""Which units of a layer go, given their number: those with the lowest scores, or all but the nearest neighbors.

Dimensions in names: O units, K weights per unit.

References:
    Lin et al., Pruning Networks with Cross-Layer Ranking & k-Reciprocal Nearest Filters, TNNLS 2022: the released code,
    lmbxmu/CLR-RNF, utils/common.py.
"""

import torch
from torch import Tensor

__all__ = ["k_reciprocal", "lowest"]

EQUAL = 1e-12
"""Units whose squared distance is this share of their squared norms, or less, are equal up to rounding."""


def k_reciprocal(weight: Tensor, num_kept: int) -> Tensor:
    """Return the units that are among the k nearest neighbors of every unit, for the smallest k that gives enough.

        I_k = units j that each unit i has among its k nearest, i itself included
        kept = I_(k-1) and some of I_k, for the smallest k >= num_kept with at least num_kept units in I_k

    So the units in the middle of their layer are kept. With the rank of j in the neighbors of i, from 0, unit j is in
    I_k if its worst rank over all i is below k. The kept units are thus those with the best worst rank.

    >>> k_reciprocal(torch.tensor([[0.0], [1.0], [1.1], [5.0]]), 2)
    tensor([1, 2])

    Args:
        weight: (O, ...), one row per unit, finite.
        num_kept: in [1, O].

    Returns:
        (num_kept,) int64 indices, ascending, on the device of `weight`.

    Raises:
        ValueError: num_kept is outside its range.

    References:
        The released code sorts each row of exp(-||W_i - W_j||^2), L1-normalized, in descending order; this is the order
        of the distances, which do not underflow. It takes arbitrary members of I_k; here those with the lowest
        index. Its sort breaks ties arbitrarily; here a unit comes first among its own neighbors, equally distant ones
        by index.
    """
    if not 1 <= num_kept <= len(weight):
        raise ValueError(f"k_reciprocal: num_kept must be in [1, {len(weight)}], got {num_kept=}")
    # by a product: differences take 20 s for VGG-16; in float64 it loses no digit that decides between unequal units
    rows_OK = weight.detach().double().flatten(1)
    squares_O = rows_OK.square().sum(1)
    sums_OO = squares_O[:, None] + squares_O
    distances_OO = sums_OO - 2 * rows_OK @ rows_OK.T
    # equal units get the same distances to all, so that their order is that of the index
    first_O = (distances_OO <= EQUAL * sums_OO).int().argmax(1)
    distances_OO = distances_OO[first_O][:, first_O]
    distances_OO.fill_diagonal_(-torch.inf)  # a unit is nearer to itself than to its copies
    ranks_OO = distances_OO.argsort(dim=1, stable=True).argsort(dim=1)
    worst_O = ranks_OO.amax(0)
    return worst_O.argsort(stable=True)[:num_kept].sort().values


def lowest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the units with the lowest scores.

    >>> lowest(torch.tensor([3.0, 1.0, 2.0, 4.0]), 2)
    tensor([1, 2])

    Args:
        scores: (O,), higher matters more; among equal scores the lower index is weaker.
        count: number of units, in [0, O].

    Returns:
        int64 indices on the device of `scores`, the weakest first.

    Raises:
        ValueError: scores have another shape.
    """
    if scores.dim() != 1:
        raise ValueError(f"lowest: scores must have shape (O,), got {tuple(scores.shape)}")
    return scores.argsort(stable=True)[:count]
