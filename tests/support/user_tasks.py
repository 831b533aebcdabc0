"""User-defined tasks for tests, named in spaces as `python:user_tasks.NAME`."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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


class ScoresInfinity(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rmse": float("inf"), "worst": 1.0}


class WorstIsNan(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {**super().score(predictions, targets), "worst": float("nan")}


class WorstIsInfinite(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {**super().score(predictions, targets), "worst": float("inf")}


class AccuracyInPercent(Regression):
    metrics = (graftpop.Metric("rmse", "min"), graftpop.Metric("accuracy"))

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rmse": 1.0, "accuracy": 40.0}


class NegativeRank(Regression):
    metrics = (graftpop.Metric("rank1"),)

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rank1": -0.5}


class RoundedAccuracy(AccuracyInPercent):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"rmse": 1.0, "accuracy": 1.0 + 1e-7}


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


class OutputsAsText(Regression):
    num_outputs = "1"  # type: ignore[assignment]


class NoOutputs(Regression):
    num_outputs = 0


class LossOfIntegers(Regression):
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return torch.count_nonzero(outputs > targets)


class OneItemLeft(Regression):
    def forward(self, network: nn.Module, inputs: Tensor) -> Any:
        return network(inputs)[:1]


class OneItemLeftInSecond(Regression):
    def forward(self, network: nn.Module, inputs: Tensor) -> Any:
        outputs = network(inputs)
        return outputs, outputs[:1]


class OneItemInferred(Regression):
    def infer(self, network: nn.Module, inputs: Tensor) -> Any:
        return network(inputs)[:1]


class FurtherScore(Regression):
    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {**super().score(predictions, targets), "median": 1.0}


class CombinesToOne(Regression):
    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        return predictions[0][:1]


class CombinesToANumber(Regression):
    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(predictions)).mean()


class FailsToCombine(Regression):
    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        raise RuntimeError("not together")


class FailsInValidation(Regression):
    def validation_loss(self, outputs: Any, targets: Tensor) -> float:
        raise RuntimeError("not validated")


class ValidationLossPerItem(Regression):
    def validation_loss(self, outputs: Any, targets: Tensor) -> float:
        return F.mse_loss(outputs, targets, reduction="none")  # type: ignore[return-value]


class DecidesTwice(Regression):
    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.zeros(len(predictions), 2, dtype=torch.int64)


class DecidesOnce(Regression):
    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.zeros(1, dtype=torch.int64)


class DecidesInFloats(Regression):
    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.zeros(len(predictions))


class Decides(Regression):
    """Whether an item is predicted too high."""

    made: ClassVar[list[Tensor]] = []

    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        self.made.append((predictions[:, 0] > targets[:, 0]).long())
        return self.made[-1]


class LogitsOfOneAxis(Regression):
    def logits(self, outputs: Any) -> Tensor:
        logits: Tensor = outputs[:, 0]
        return logits


class MoreCorrectThanItems(Regression):
    def num_correct(self, outputs: Any, targets: Tensor) -> Tensor:
        return torch.tensor(len(targets) + 1)


class CorrectAsText(Regression):
    def num_correct(self, outputs: Any, targets: Tensor) -> Tensor:
        return "3"  # type: ignore[return-value]


class NoOutputsAtAll(Regression):
    def forward(self, network: nn.Module, inputs: Tensor) -> Any:
        return ()


class Numbers(Regression):
    """Python numbers in place of tensors, and the reverse."""

    def num_correct(self, outputs: Any, targets: Tensor) -> Tensor:
        return int((outputs > targets).sum())  # type: ignore[return-value]

    def validation_loss(self, outputs: Any, targets: Tensor) -> float:
        return self.loss(outputs, targets)  # type: ignore[return-value]


class MetricsTwice(Regression):
    metrics = (graftpop.Metric("rmse", "min"), graftpop.Metric("rmse", "max"))


class MetricUpward(Regression):
    metrics = (graftpop.Metric("rmse", "up"),)  # type: ignore[arg-type]


class MetricOfTwoWords(Regression):
    metrics = (graftpop.Metric("mean error", "min"),)


def number() -> int:
    return 1


NUMBER = 1


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


class NormNet(Net):
    """Two layers with a normalization, whose statistics training changes."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__(num_outputs)
        self.layers.insert(1, nn.BatchNorm1d(8))


def sums() -> tuple[TensorDataset, TensorDataset]:
    """Return training and test items whose target is the sum of the input."""
    inputs = torch.randn(160, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, inputs.sum(1, keepdim=True)
    return TensorDataset(*(part[:120] for part in data)), TensorDataset(*(part[120:] for part in data))
