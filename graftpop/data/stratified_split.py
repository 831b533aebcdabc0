"""Stratified random split of a labeled set."""

import torch
from torch import Tensor

__all__ = ["stratified_rows"]


def stratified_rows(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` random rows and the remaining rows, both in ascending order.

    Systematic sampling: the rows are shuffled, sorted by class, and taken at equal distances from a random start. Every
    row is equally likely, and a class of n rows gives n * count / N rows, rounded up or down.

    Args:
        labels: int64 (N,), the class of each row.
        count: rows to choose, in [0, N].
        generator: on the CPU; advanced by two draws.

    Returns:
        int64 (count,) and (N - count,).
    """
    num_rows = len(labels)
    shuffled = torch.randperm(num_rows, generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    start = torch.randint(num_rows, (1,), generator=generator)
    chosen = torch.zeros(num_rows, dtype=torch.bool)
    if count:
        chosen[by_class[(torch.arange(count) * num_rows + start) // count]] = True
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)
