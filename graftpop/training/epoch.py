"""Interfaces of loss terms and of exchanges within an epoch, and the result of an epoch."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["EpochMetrics", "LossTerm", "MutualTerm", "Steps", "WeightExchange"]


@dataclass(frozen=True)
class EpochMetrics:
    """Result of one epoch of training.

    Attributes:
        loss: mean of the task's loss over the epoch's images, without further loss terms.
        accuracy: share of its images that were classified correctly, in [0, 1]; None if the task has no classes.
        lr: learning rate of its first step.
        num_images: images trained on.
        train_s: duration of the epoch, in seconds.
    """

    loss: float
    accuracy: float | None
    lr: float
    num_images: int
    train_s: float


LossTerm = Callable[[Tensor, Tensor], Tensor]
"""Maps a step's logits (B, C), in float32, and its inputs (B, ...), augmented, to a scalar added to the loss."""

MutualTerm = Callable[[Tensor, Tensor], Tensor]
"""Maps a step's logits (B, C) and those of all peers on the same images, (K, B, C), to a scalar added to the loss."""

Steps = Generator[Tensor, Tensor, EpochMetrics]
"""An epoch as a `CollectiveCall` of tensors: yields a batch's logits (B, C), is sent those of all peers (K, B, C).

With exchanges within the epoch it also yields the flat weights (N,) and is sent those of all peers (K, N). With
averaged gradients it yields its flat gradient (P,) and is sent those of all peers (K, P).
"""


class WeightExchange(Protocol):
    """Exchanges weights with all peers after some of the optimizer steps."""

    def follows(self, step: int) -> bool:
        """Return whether an exchange follows a step, counted from 1 over all epochs."""

    def __call__(self, weights_KN: Tensor, step: int) -> None:
        """Change the network's weights, given those of all K peers after a step, counted from 1 over all epochs."""
