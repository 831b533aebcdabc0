"""Learning-rate schedules: factors of the initial learning rate, as functions of the epochs trained so far.

They keep no state, so a resumed peer needs only its epoch.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from graftpop.settings import SwaSettings

__all__ = ["SCHEDULES", "Schedule", "constant", "cosine", "learning_rate", "peer_learning_rate", "step"]

Schedule = Callable[[float, int], float]
"""Maps the epochs trained so far (fractional within an epoch) and the total epochs to a factor in [0, 1]."""


def step(epochs_done: float, epochs: int) -> float:
    """Return 0.1 ** floor(epochs_done / 60): a tenth after every 60 epochs (Meng et al., section 4.1)."""
    del epochs  # the steps do not depend on the length of the training
    return float(0.1 ** (epochs_done // 60))


def cosine(epochs_done: float, epochs: int) -> float:
    """Return (1 + cos(pi * epochs_done / epochs)) / 2, which falls from 1 to 0 (the released code's `--cos`)."""
    return (1 + math.cos(math.pi * epochs_done / epochs)) / 2


def constant(epochs_done: float, epochs: int) -> float:
    """Return 1."""
    del epochs_done, epochs
    return 1.0


SCHEDULES: Final[Mapping[str, Schedule]] = {"step": step, "cosine": cosine, "constant": constant}


def learning_rate(lr: float, schedule: str, epochs: int, swa: SwaSettings | None = None) -> Callable[[float], float]:
    """Return the learning rate as a function of the epochs trained so far.

    Args:
        lr: initial learning rate, > 0.
        schedule: a key of SCHEDULES.
        epochs: epochs of the whole training.
        swa: settings of weight averaging; if they set a learning rate, it is constant from `swa.start` on.
    """
    factor = SCHEDULES[schedule]

    def at(epochs_done: float) -> float:
        # without the tolerance, 0.07 * 100 = 7.000000000000001 would miss epoch 7
        if swa is not None and swa.lr is not None and epochs_done >= swa.start * epochs - 1e-9:
            return swa.lr
        return lr * factor(epochs_done, epochs)

    return at


def peer_learning_rate(lr: float, peer: int, num_peers: int) -> float:
    """Return the initial learning rate of one peer under `diversity: learning_rate`.

        lr_i = lr * (1 + cos(pi * (n - i) / n)) / 2,    i = 1..n

    The last peer has the full rate. Example: of two peers at lr 0.1, the first has 0.05 and the second 0.1.

    Args:
        lr: the population's learning rate.
        peer: index of the peer, from 0; the formula's i is peer + 1.
        num_peers: number of peers, the formula's n.

    References:
        github.com/fxmeng/filter-grafting, grafting_cifar/grafting.py, `loc` ("dlr").
    """
    return lr * (1 + math.cos(math.pi * (num_peers - peer - 1) / num_peers)) / 2
