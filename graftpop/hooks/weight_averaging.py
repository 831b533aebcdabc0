"""Stochastic weight averaging: the mean of one network's weights over its last epochs.

References:
    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from graftpop.hooks.hook import Hook
from graftpop.training.learner import Learner

__all__ = ["StochasticWeightAveraging"]


class StochasticWeightAveraging(Hook):
    """Replaces a network's weights, at the end, by their mean over the last epochs.

        mean <- mean + (W - mean) / n        after the n-th epoch past the start

    Args:
        learner: the learner that trains the network.
        start: share of the epochs after which averaging begins, in [0, 1).
        epochs: epochs of the whole training.
    """

    name = "swa"

    def __init__(self, learner: Learner, *, start: float, epochs: int) -> None:
        self._learner = learner
        self._first_epoch = math.floor(start * epochs + 1e-9) + 1  # 0.29 * 100 is 28.999999999999996
        self._mean = torch.zeros_like(learner.state.buffer)
        self._num_averaged = 0

    def before_epoch(self, epoch: int) -> None:
        """Add the weights to the mean once the start is past."""
        if epoch >= self._first_epoch:
            self._num_averaged += 1
            self._mean.lerp_(self._learner.state.buffer, 1 / self._num_averaged)

    def restart(self) -> None:
        """Begin a new mean, because the old one holds weights of another network."""
        self._num_averaged = 0

    def finish(self) -> None:
        """Replace the weights by the mean, and recompute the BatchNorm statistics."""
        self.before_epoch(self._learner.epoch)
        self._learner.state.buffer.copy_(self._mean)
        self._learner.recalibrate()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mean and the number of epochs in it."""
        return {"mean": self._mean, "num_averaged": torch.tensor(self._num_averaged)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self._mean.copy_(tensors["mean"])
        self._num_averaged = int(tensors["num_averaged"])
