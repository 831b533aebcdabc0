"""The learning rate over time, as a factor of the initial one: functions of where in its training a peer stands.

They keep no state, so a resumed peer needs none: the epoch is enough.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from graftpop.settings import SwaSettings

__all__ = ["SCHEDULES", "Schedule", "constant", "cosine", "learning_rate", "peer_learning_rate", "step"]

Schedule = Callable[[float, int], float]
"""From the epochs trained so far (fractional within an epoch) and the epochs in all to a factor in [0, 1]."""


def step(epochs_done: float, epochs: int) -> float:
    """Return 0.1 ** floor(epochs_done / 60): a tenth after every 60 epochs (Meng et al., section 4.1)."""
    del epochs  # the steps lie where they lie, however long the training is
    return float(0.1 ** (epochs_done // 60))


def cosine(epochs_done: float, epochs: int) -> float:
    """Return (1 + cos(pi * epochs_done / epochs)) / 2: from 1 to 0, batch by batch (the released code's `--cos`)."""
    return (1 + math.cos(math.pi * epochs_done / epochs)) / 2


def constant(epochs_done: float, epochs: int) -> float:
    """Return 1."""
    del epochs_done, epochs
    return 1.0


SCHEDULES: Final[Mapping[str, Schedule]] = {"step": step, "cosine": cosine, "constant": constant}


def learning_rate(lr: float, schedule: str, epochs: int, swa: SwaSettings | None = None) -> Callable[[float], float]:
    """Return the learning rate as a function of the epochs trained so far.

    Args:
        lr: at the start.
        schedule: a key of SCHEDULES.
        epochs: of the whole training.
        swa: where its rate is set, that holds once its start is past.
    """
    factor = SCHEDULES[schedule]

    def at(epochs_done: float) -> float:
        # 0.07 * 100 is 7.000000000000001
        if swa is not None and swa.lr is not None and epochs_done >= swa.start * epochs - 1e-9:
            return swa.lr
        return lr * factor(epochs_done, epochs)

    return at


def peer_learning_rate(lr: float, peer: int, num_peers: int) -> float:
    """Return the initial learning rate of one peer under `diversity: learning_rate`.

        lr_i = lr * (1 + cos(pi * (n - i) / n)) / 2,    i = 1..n

    The last peer has the full rate; two peers at 0.1 have 0.05 and 0.1.

    Args:
        lr: the population's learning rate.
        peer: from 0; the formula's i is peer + 1.
        num_peers: the formula's n.

    References:
        github.com/fxmeng/filter-grafting, grafting_cifar/grafting.py, `loc` ("dlr").
    """
    return lr * (1 + math.cos(math.pi * (num_peers - peer - 1) / num_peers)) / 2
