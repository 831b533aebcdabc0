"""Model soups: the mean of several networks' weights.

References:
    Wortsman et al., Model Soups, ICML 2022, arXiv:2203.05482.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["greedy_soup", "uniform_soup"]


def uniform_soup(weights: Iterable[Tensor]) -> Tensor:
    """Return the mean of some networks' flat weights, each (N,)."""
    return torch.stack(list(weights)).mean(0)


def greedy_soup(weights: Iterable[Tensor], merit_of: Callable[[Tensor], float]) -> Tensor:
    """Return the mean of a greedy choice of networks.

    The first network is chosen; each further one is chosen too if the mean with it is at least as good as without.

    Args:
        weights: flat weights of each network, (N,), the best network first.
        merit_of: function from flat weights to their merit on the validation split, higher is better.
    """
    first, *others = weights
    chosen, best = [first], merit_of(first)
    for candidate in others:
        merit = merit_of(uniform_soup([*chosen, candidate]))
        if merit >= best:
            chosen, best = [*chosen, candidate], merit
    return uniform_soup(chosen)
