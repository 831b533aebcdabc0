"""Schedules of pruning: how many units are weak at an epoch, and by which factor these are multiplied.

Factor 0 is soft filter pruning (He et al., IJCAI 2018). With a growing rate it is asymptotic soft filter pruning. A
falling factor is softer filter pruning (Cai et al., arXiv:2010.09498). A constant factor between 0 and 1 is our reading
of filter attenuation (Mousa-Pasandi et al., ICIP 2020), of which we know only the abstract.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ShareSchedule", "attenuate_", "constant", "falling", "growing", "zero"]

ShareSchedule = Callable[[int, int], float]
"""From trained epochs and total epochs to a factor in [0, 1] of the value in the settings."""


def constant(epochs_done: int, epochs: int) -> float:
    """Return 1."""
    del epochs_done, epochs
    return 1.0


def zero(epochs_done: int, epochs: int) -> float:
    """Return 0."""
    del epochs_done, epochs
    return 0.0


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


def attenuate_(weight: Tensor, weak: Tensor, factor: float) -> None:
    """Multiply some filters of a layer by a factor, in place and without a graph.

    Args:
        weight: (O, ...), float; a parameter's scale or shift (O,) may be attenuated alike.
        weak: int64 indices of filters.
        factor: in [0, 1]; 1 keeps every bit, 0 gives zeros.

    Raises:
        ValueError: factor is outside its range.
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"attenuate_: factor must be in [0, 1], got {factor=}")
    with torch.no_grad():
        weight[weak] *= factor
