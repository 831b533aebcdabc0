"""Classification: one of several classes for each image."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from graftpop.settings.task import METRICS
from graftpop.tasks.task import Task

__all__ = ["Classification"]


class Classification(Task):
    """Classification of images by the cross entropy of a network's logits (B, C) with labels (B,).

    Its predictions are class probabilities (N, C), and an ensemble has their mean.

    Args:
        label_smoothing: share of the target probability that is spread evenly over all classes in training, in [0, 1).
    """

    metrics = METRICS["classification"]

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy; targets may be labels (B,) or probabilities (B, C)."""
        return F.cross_entropy(outputs, targets, label_smoothing=self._smoothing)

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return the accuracy."""
        return {"accuracy": int(torch.count_nonzero(predictions.argmax(1) == targets)) / len(targets)}

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the class probabilities (N, C)."""
        return outputs.softmax(1)

    def validation_loss(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the mean cross entropy, without label smoothing."""
        return float(F.cross_entropy(outputs, targets))

    def num_correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many images are classified correctly; of mixed targets (B, C) the largest counts."""
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        return torch.count_nonzero(outputs.argmax(1) == labels)

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the outputs (B, C)."""
        return outputs

    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the predicted classes (N,)."""
        del targets
        return predictions.argmax(1)
