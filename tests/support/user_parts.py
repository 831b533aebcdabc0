"""A user-defined network, images and optimizer, in a module that processes of peers can import."""

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset


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
