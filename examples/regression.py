"""A user-defined task, regression: the progression of diabetes from ten measurements of a patient.

As a population in Python: `python regression.py`. As a study, in the folder of this file:

    python -m graftpop.tune --space regression.yaml
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import graftpop


class Regression(graftpop.Task):
    """One number for each item, (B, 1), by the squared error."""

    metrics = (graftpop.Metric("rmse", "min"), graftpop.Metric("r2"))
    num_outputs = 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(outputs, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return the root of the mean squared error, and the share of the variance that is explained."""
        error = F.mse_loss(predictions, targets)
        return {"rmse": float(error.sqrt()), "r2": float(1 - error / targets.var(correction=0))}


class Net(nn.Module):
    """Two layers."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_outputs)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions (B, num_outputs) for inputs (B, 10)."""
        predictions: Tensor = self.layers(inputs)
        return predictions


def patients() -> tuple[TensorDataset, TensorDataset]:
    """Return training and test items: ten standardized measurements, and the progression in units of 100."""
    found = load_diabetes()
    inputs, targets = torch.tensor(found.data).float() * 20, torch.tensor(found.target).float()[:, None] / 100
    return TensorDataset(inputs[:342], targets[:342]), TensorDataset(inputs[342:], targets[342:])


def main() -> None:
    """Train three peers that graft."""
    population = graftpop.Population(
        Net,
        *patients(),
        task=Regression,
        training={"epochs": 8, "batch_size": 32, "lr": 0.02, "schedule": "cosine"},
        population={"num_peers": 3, "output": "ensemble"},
        graft={"A": 0.4},
    )
    for done in population.run():
        print(f"round {done.round}: validation error {done.score:.3f}")
    print(f"test error {population.outcome['test_rmse']:.3f}, R2 {population.outcome['test_r2']:.3f}")


if __name__ == "__main__":
    main()
