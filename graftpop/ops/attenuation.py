"""Attenuation: after each epoch the weakest share `rate` of each layer's filters is multiplied by a factor.

Schedules may change rate and factor during training, so one rule covers a family of methods. Factor 0 is soft filter
pruning (He et al., IJCAI 2018). A growing rate makes it asymptotic soft filter pruning. A falling factor is softer
filter pruning (Cai et al., arXiv:2010.09498). A constant factor between 0 and 1 is our reading of filter attenuation
(Mousa-Pasandi et al., ICIP 2020), of which we know only the abstract.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "FACTOR_SCHEDULES",
    "RATE_SCHEDULES",
    "ShareSchedule",
    "attenuate_",
    "constant",
    "falling",
    "growing",
    "weakest",
]

ShareSchedule = Callable[[int, int], float]
"""From trained epochs and total epochs to a factor in [0, 1] of the value in the settings."""


def constant(epochs_done: int, epochs: int) -> float:
    """Return 1."""
    del epochs_done, epochs
    return 1.0


def growing(epochs_done: int, epochs: int) -> float:
    """Return the share of the final rate: it grows fast at first and reaches 3/4 after 1/8 of the training.

        1 - exp(-k * t),    k = log(4) / (epochs / 8),    and exactly 1 at the end

    Args:
        epochs_done: the formula's t, in [0, epochs].
        epochs: at least 1.

    Raises:
        ValueError: an argument is outside its range.

    References:
        He et al., Asymptotic Soft Filter Pruning, arXiv:1808.07471; the constants come from a re-implementation.
    """
    _check_epochs("growing", epochs_done, epochs)
    return 1.0 if epochs_done == epochs else 1 - 4.0 ** (-8 * epochs_done / epochs)


def falling(epochs_done: int, epochs: int) -> float:
    """Return the remaining share of the initial factor.

        1 - epochs_done / epochs

    Args:
        epochs_done: in [0, epochs].
        epochs: at least 1.

    Raises:
        ValueError: an argument is outside its range.

    References:
        Cai et al., arXiv:2010.09498, use a monotonically decreasing factor. We do not know their law; the straight
        line to 0 is ours.
    """
    _check_epochs("falling", epochs_done, epochs)
    return 1 - epochs_done / epochs


def _check_epochs(where: str, epochs_done: int, epochs: int) -> None:
    if not 0 <= epochs_done <= epochs or epochs < 1:
        raise ValueError(
            f"{where}: epochs_done must be in [0, epochs] and epochs at least 1, got {epochs_done=}, {epochs=}"
        )


RATE_SCHEDULES: Final[Mapping[str, ShareSchedule]] = {"constant": constant, "growing": growing}
FACTOR_SCHEDULES: Final[Mapping[str, ShareSchedule]] = {"constant": constant, "falling": falling}


def weakest(scores: Tensor, rate: float) -> Tensor:
    """Return the indices of the floor(rate * O) filters with the lowest scores, never of all filters.

    >>> weakest(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5)
    tensor([1, 2])

    Args:
        scores: (O,), higher matters more; among equal scores the lower index is weaker.
        rate: in [0, 1).

    Returns:
        int64 indices on the device of `scores`, the weakest first.

    Raises:
        ValueError: rate is outside its range, or scores have another shape.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"weakest: rate must be in [0, 1), got {rate=}")
    if scores.dim() != 1:
        raise ValueError(f"weakest: scores must have shape (O,), got {tuple(scores.shape)}")
    # 0.29 * 100 is 28.999999999999996 and means 29 filters; a rate just below 1 must not round up to all filters
    num_weak = max(0, min(math.floor(rate * len(scores) + 1e-9), len(scores) - 1))
    return scores.argsort(stable=True)[:num_weak]


def attenuate_(weight: Tensor, weak: Tensor, factor: float) -> None:
    """Multiply some filters of a layer by a factor, in place and without a graph.

    Args:
        weight: (O, ...), float; a parameter's scale or shift (O,) may be attenuated alike.
        weak: int64 indices of filters, from `weakest`.
        factor: in [0, 1]; 1 keeps every bit, 0 gives zeros.

    Raises:
        ValueError: factor is outside its range.
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"attenuate_: factor must be in [0, 1], got {factor=}")
    with torch.no_grad():
        weight[weak] *= factor
