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


def greedy_soup(weights: Iterable[Tensor], accuracy_of: Callable[[Tensor], float]) -> Tensor:
    """Return the mean of those networks that do not make it worse.

    The first is in; each further one stays if the mean with it is at least as accurate as without.

    Args:
        weights: flat, each (N,), the most accurate first.
        accuracy_of: function from flat weights to the accuracy on the validation images.
    """
    first, *others = weights
    chosen, best = [first], accuracy_of(first)
    for candidate in others:
        accuracy = accuracy_of(uniform_soup([*chosen, candidate]))
        if accuracy >= best:
            chosen, best = [*chosen, candidate], accuracy
    return uniform_soup(chosen)
