"""User-defined tasks for tests, named in spaces as `python:user_tasks.NAME`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import graftpop


class Regression(graftpop.Task):
    """A number for each item, by the squared error."""

    metrics: Sequence[graftpop.Metric] = (graftpop.Metric("rmse", "min"), graftpop.Metric("worst", "min"))
    num_outputs = 1

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        errors = (predictions - targets).abs()
        return {"rmse": float(errors.square().mean().sqrt()), "worst": float(errors.max())}


class OfTheNegative(Regression):
    """Calls the network itself, with other inputs."""

    def forward(self, network: nn.Module, inputs: Tensor) -> Any:
        return -network(-inputs)


class RaisesInLoss(Regression):
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        raise RuntimeError("no loss\ntoday")


class LossPerItem(Regression):
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets, reduction="none")


class InfiniteLoss(Regression):
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return torch.inf * F.mse_loss(outputs, targets)


class ConstantLoss(Regression):
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return targets.mean()


class LacksAMetric(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rmse": 1.0}


class ScoresNan(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rmse": float("nan"), "worst": 1.0}


class ScoresText(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rmse": "low", "worst": 1.0}  # type: ignore[dict-item]


class PredictsOneNumber(Regression):
    def predict(self, outputs: Any) -> Tensor:
        mean: Tensor = outputs.mean(0, keepdim=True)
        return mean


class ReturnsNoTensor(Regression):
    def forward(self, network: nn.Module, inputs: Tensor) -> Any:
        return {"prediction": network(inputs)}


class LossOfText(Regression):
    def validation_loss(self, outputs: Any, targets: Tensor) -> float:
        return "low"  # type: ignore[return-value]


class CorrectPerItem(Regression):
    def num_correct(self, outputs: Any, targets: Tensor) -> Tensor:
        return torch.as_tensor(outputs[:, 0] > 0)


class LogitsOfNone(Regression):
    def logits(self, outputs: Any) -> None:
        return None


class MetricInGreek(Regression):
    metrics = (graftpop.Metric("\u03c3", "min"),)


class NoMetrics(Regression):
    metrics = ()


class MetricNamedLoss(Regression):
    metrics = (graftpop.Metric("loss", "min"),)


class ThreeOutputs(Regression):
    num_outputs = 3


class Raises(Regression):
    def __init__(self) -> None:
        raise ValueError("cannot be made")


class NoTask:
    """Not a task at all."""


class Net(nn.Module):
    """Two layers."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, num_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def sums() -> tuple[TensorDataset, TensorDataset]:
    """Return training and test items whose target is the sum of the input."""
    inputs = torch.randn(160, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, inputs.sum(1, keepdim=True)
    return TensorDataset(*(part[:120] for part in data)), TensorDataset(*(part[120:] for part in data))
