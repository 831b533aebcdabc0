"""Learning-rate schedules: factors of the initial learning rate, as functions of the epochs trained so far.

They keep no state, so a resumed peer needs only its epoch.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Final

from graftpop.settings import SwaSettings, TrainingSettings

__all__ = [
    "DEFAULTS",
    "SCHEDULES",
    "Schedule",
    "constant",
    "cosine",
    "learning_rate",
    "linear",
    "one_cycle",
    "peak_epoch",
    "peer_learning_rate",
    "step",
    "warmup",
]

Schedule = Callable[[float, int, TrainingSettings], float]
"""Maps the epochs trained so far (fractional within an epoch), the total epochs and the settings to a factor in [0, 1].

`min_lr` enters as its share of `lr`, so that peers with different learning rates have equal factors.
"""

DEFAULTS: Final = TrainingSettings()
"""Settings of the schedules that are called without any."""

WARMUP_START: Final = 0.01
"""Factor at the start of the warmup."""

ONE_CYCLE_RISE: Final = 0.3
ONE_CYCLE_START: Final = 1 / 25
ONE_CYCLE_END: Final = 1 / 25e4
"""The share of the epochs in which one_cycle rises, its first and its last factor: the defaults of `OneCycleLR`."""


def step(epochs_done: float, epochs: int, training: TrainingSettings = DEFAULTS) -> float:
    """Return decay_rate ** n after n decays: one after every `decay_epochs`, or one at each epoch of that list.

    The default is 0.1 ** floor(epochs_done / 60): a tenth after every 60 epochs (Meng et al., section 4.1).
    """
    del epochs  # the steps do not depend on the length of the training
    at = training.decay_epochs
    return float(training.decay_rate ** (bisect_right(at, epochs_done) if isinstance(at, list) else epochs_done // at))


def cosine(epochs_done: float, epochs: int, training: TrainingSettings = DEFAULTS) -> float:
    """Return (1 + cos(pi * epochs_done / epochs)) / 2, which falls from 1 to 0 (the released code's `--cos`).

    With `min_lr` the range from 1 to 0 is mapped to that from 1 to min_lr / lr.
    """
    return _between(training.min_lr / training.lr, _half_cosine(epochs_done / epochs))


def linear(epochs_done: float, epochs: int, training: TrainingSettings = DEFAULTS) -> float:
    """Return 1 - epochs_done / epochs, which falls from 1 to 0, or with `min_lr` to min_lr / lr."""
    return _between(training.min_lr / training.lr, 1 - epochs_done / epochs)


def one_cycle(epochs_done: float, epochs: int, training: TrainingSettings = DEFAULTS) -> float:
    """Return torch's `OneCycleLR`: half a cosine from 1/25 up to 1 in 30 % of the epochs, then one down to 1/250000.

    References:
        Smith, Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2017.
    """
    del training
    done = epochs_done / epochs
    if done < ONE_CYCLE_RISE:
        return _between(ONE_CYCLE_START, _half_cosine(1 - done / ONE_CYCLE_RISE))
    return _between(ONE_CYCLE_END, _half_cosine((done - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)))


def constant(epochs_done: float, epochs: int, training: TrainingSettings = DEFAULTS) -> float:
    """Return 1."""
    del epochs_done, epochs, training
    return 1.0


def _half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def _between(low: float, share: float) -> float:
    return low + (1 - low) * share


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "step": step,
    "cosine": cosine,
    "linear": linear,
    "one_cycle": one_cycle,
    "constant": constant,
}


def warmup(epochs_done: float, training: TrainingSettings) -> float:
    """Return the factor of the warmup: it rises linearly from 0.01 to 1 in `warmup_epochs`; 1 for one_cycle.

    It multiplies the schedule, whose epochs count from the start of the training, as torch's `ChainedScheduler` does.

    References:
        Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017, section 2.2.
    """
    if training.schedule == "one_cycle" or epochs_done >= training.warmup_epochs:
        return 1.0
    return _between(WARMUP_START, epochs_done / training.warmup_epochs)


def peak_epoch(training: TrainingSettings, epochs: int) -> float:
    """Return the epochs after which the learning rate has risen to its highest value."""
    return ONE_CYCLE_RISE * epochs if training.schedule == "one_cycle" else training.warmup_epochs


def learning_rate(
    training: TrainingSettings, epochs: int, swa: SwaSettings | None = None, *, lr: float | None = None
) -> Callable[[float], float]:
    """Return the learning rate as a function of the epochs trained so far.

    Args:
        training: the schedule with its warmup, and the learning rate that it starts from.
        epochs: epochs of the whole training.
        swa: settings of weight averaging; if they set a learning rate, it is constant from `swa.start` on.
        lr: learning rate in place of `training.lr`; the ratio of `min_lr` to it stays. None: `training.lr`.
    """
    factor, initial = SCHEDULES[training.schedule], training.lr if lr is None else lr

    def at(epochs_done: float) -> float:
        # without the tolerance, 0.07 * 100 = 7.000000000000001 would miss epoch 7
        if swa is not None and swa.lr is not None and epochs_done >= swa.start * epochs - 1e-9:
            return swa.lr
        return initial * factor(epochs_done, epochs, training) * warmup(epochs_done, training)

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
