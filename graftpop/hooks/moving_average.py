"""Exponential moving average (EMA) of one network's weights over its optimizer steps.

References:
    Polyak, Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; the form with a decay is that of
    `torch.optim.swa_utils.get_ema_multi_avg_fn` and of timm's `ModelEmaV3`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from graftpop.hooks.hook import Hook
from graftpop.training.learner import Learner

__all__ = ["MovingAverage"]


class MovingAverage(Hook):
    """Replaces a network's weights, at the end, by their exponential moving average.

        mean <- decay * mean + (1 - decay) * W    after each optimizer step; W after the first

    The statistics of BatchNorm are averaged in the same way, as timm does; integer buffers stay the network's.

    Args:
        learner: the learner that trains the network.
        decay: share of the mean that each step keeps, in (0, 1).
    """

    name = "ema"

    def __init__(self, learner: Learner, *, decay: float) -> None:
        self._learner, self._decay = learner, decay
        self._mean = torch.zeros_like(learner.state.buffer)
        self._is_started = False
        learner.after_step.append(self._update)

    def _update(self) -> None:
        weights = self._learner.state.buffer
        if self._is_started:
            self._mean.lerp_(weights, 1 - self._decay)
        else:  # the mean before a restart may not be finite
            self._mean.copy_(weights)
        self._is_started = True

    def restart(self) -> None:
        """Begin a new mean with the next step."""
        self._is_started = False

    def finish(self) -> None:
        """Replace the weights by the mean, if there was a step since the start."""
        if self._is_started:
            self._learner.state.buffer.copy_(self._mean)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mean, and whether it has begun."""
        return {"mean": self._mean, "is_started": torch.tensor(self._is_started)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self._mean.copy_(tensors["mean"])
        self._is_started = bool(tensors["is_started"])
