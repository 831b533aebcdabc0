"""The interface of a task: loss, predictions, metrics, and how predictions of several peers combine."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftpop.metrics import Metric

__all__ = ["Outputs", "Task"]

Outputs = Any
"""A tensor whose first axis is the batch, or a tuple of such tensors."""


class Task(ABC):
    """The loss that networks train on, and the metrics that score their predictions.

    A subclass names its metrics and implements `loss` and `score`; everything else has a default:

        class Regression(graftpop.Task):
            metrics = (graftpop.Metric("rmse", "min"),)

            def loss(self, outputs, targets):
                return F.mse_loss(outputs, targets)

            def score(self, predictions, targets):
                return {"rmse": float((predictions - targets).square().mean().sqrt())}

    A task has no state that training changes: every peer has its own task, and a replaced peer gets a new one.

    Attributes:
        metrics: the metrics, the primary first; it selects peers and trials.
        num_outputs: argument of the function that makes the network; None: the number of classes of the data.
    """

    metrics: Sequence[Metric] = ()
    num_outputs: int | None = None

    def forward(self, network: nn.Module, inputs: Tensor) -> Outputs:
        """Return the network's outputs for a batch of inputs (B, ...), for `loss` and the methods below."""
        return network(inputs)

    def infer(self, network: nn.Module, inputs: Tensor) -> Outputs:
        """Return the outputs from which a network in evaluation mode is scored; by default those of `forward`."""
        return self.forward(network, inputs)

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            outputs: outputs of `forward` in float32.
            targets: (B, ...).
        """

    @abstractmethod
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return the value of every metric by name.

        Args:
            predictions: predictions for all N items of a split, (N, ...), on the CPU.
            targets: (N, ...).
        """

    def predict(self, outputs: Outputs) -> Tensor:
        """Return the predictions (N, ...) that `score` takes, given all outputs of `infer`; by default the outputs."""
        predictions: Tensor = outputs
        return predictions

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """Return the predictions (N, ...) of an ensemble, given its members'; by default their mean."""
        return torch.stack(list(predictions)).mean(0)

    def validation_loss(self, outputs: Outputs, targets: Tensor) -> float | None:
        """Return the loss of a split that is not trained on, by default `loss`; None if the task has none there."""
        return float(self.loss(outputs, targets))

    def num_correct(self, outputs: Outputs, targets: Tensor) -> Tensor | None:
        """Return the number of correctly classified items of a training batch, a scalar; None without classes."""
        del outputs, targets
        return None

    def logits(self, outputs: Outputs) -> Tensor | None:
        """Return the class scores (B, C) that distillation and mutual learning compare; None if there are none."""
        del outputs
        return None

    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the decision for each item, int64 (N,), on which peers can disagree; empty if there are none."""
        del predictions, targets
        return torch.empty(0, dtype=torch.int64)
