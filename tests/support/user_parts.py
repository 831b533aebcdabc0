"""User-defined network, images, optimizer and parts of an exchange, in a module that processes of peers can import."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.ops.criteria import Filters
from graftpop.training.snapshot import Snapshot


class Net(nn.Module):
    """A convolutional network for images of one channel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layers(images)
        return logits


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 300 images to train on and 100 to test with, of one channel."""
    found = load_digits()
    images, labels = torch.tensor(found.images).float()[:, None] / 16, torch.tensor(found.target)
    return TensorDataset(images[:300], labels[:300]), TensorDataset(images[300:400], labels[300:400])


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=4e-3)


def adam_outside_actors(parameters: Any) -> torch.optim.Optimizer:
    """Fail in Ray's processes, as a function does that reads a file which only the driver's folder has."""
    if sys.argv[0].endswith("default_worker.py"):
        raise FileNotFoundError("rates.txt")
    return adam(parameters)


class Pull(ExchangeRule):
    """Moves a fifth of the way to the mean of the donors; counts its exchanges, and publishes the count."""

    def __init__(self, context: ExchangeContext) -> None:
        super().__init__(context)
        self.count = torch.tensor(0)

    def publish(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def receive(self, donors: Sequence[Snapshot]) -> dict[str, float]:
        self.count = self.count + 1
        mean = torch.stack([donor.weights_on(self.weights.device) for donor in donors]).mean(0)
        self.weights.lerp_(mean, 0.2)
        return {"exchanges": float(self.count)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self.count = tensors["count"]


class Anchored(ExchangeRule):
    """Returns a tenth of the way to the weights with which the peers began to exchange; publishes them from then on."""

    def __init__(self, context: ExchangeContext) -> None:
        super().__init__(context)
        self.anchor: Tensor | None = None

    def begin(self) -> None:
        self.anchor = self.weights.clone()

    def publish(self) -> dict[str, Tensor]:
        return {"anchor": self.anchor} if self.anchor is not None and self.context.num_steps() else {}

    def receive(self, donors: Sequence[Snapshot]) -> None:
        assert self.anchor is not None
        self.weights.lerp_(self.anchor, 0.1)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.anchor is None else {"anchor": self.anchor}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self.anchor = tensors.get("anchor")


def keep_the_better(own: Tensor, theirs: Tensor) -> Tensor:
    """Return alpha 0.9 where the receiver's score is at least the donor's, otherwise 0.1."""
    return torch.where(own >= theirs, 0.9, 0.1)


def spread(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the standard deviation of each filter's weights."""
    del generator
    return filters.weight.flatten(1).std(1)
