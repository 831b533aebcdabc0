"""Small networks with seeded weights, and learners that train them on the digits."""

import time
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from graftpop.data import Splits, load_splits
from graftpop.models import build
from graftpop.settings import DataSettings, TrainingSettings
from graftpop.tasks.classification import Classification
from graftpop.tasks.task import Task
from graftpop.training.learner import Learner
from graftpop.training.schedules import learning_rate


def digits() -> Splits:
    return _digits(limit=None)


@cache
def _digits(limit: int | None) -> Splits:
    return load_splits(DataSettings(name="digits", max_train_images=limit), seed=0)


def few_digits() -> Splits:
    """Return splits with 180 training and 20 validation images."""
    return _digits(limit=200)


def small_net(dropout: float = 0.0) -> nn.Module:
    """Return a network of one site, initialized from torch's global generator; a digits epoch takes milliseconds."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(256, 10),
    )


class TwoSites(nn.Module):
    """Two convolutions with BatchNorm: a quarter of resnet8's time per step.

    Spaces name it `python:network_makers.TwoSites`.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(images)))
        out = torch.relu(self.bn2(self.conv2(out)))
        logits: Tensor = self.classifier(out.mean((2, 3)))
        return logits


class WithDropout(TwoSites):
    """Two sites behind dropout of the images, by an argument."""

    def __init__(self, num_classes: int, *, rate: float = 0.0, widths: list[int] | None = None) -> None:
        super().__init__(num_classes)
        self.dropout, self.widths = nn.Dropout(rate), widths

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.dropout(images))


class WithWidth(TwoSites):
    """Two sites whose output layer fits the features for a share of 1.0 only."""

    def __init__(self, num_classes: int, share: float = 1.0) -> None:
        super().__init__(num_classes)
        self.classifier = nn.Linear(int(16 * share), num_classes)


class FrozenNorms(TwoSites):
    """Two sites whose BatchNorms keep their scales and shifts."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.bn1.requires_grad_(False)
        self.bn2.requires_grad_(False)


class Slow(TwoSites):
    """Waits in every step, so that its training leaves the processor to others."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.2)
        return super().forward(images)


def seeded_small_net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small_net(dropout)


def seeded_network(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, 10)


def trained_looking(name: str, seed: int) -> nn.Module:
    """Return a network in which every entry depends on the seed, also those of BatchNorm and the integers."""
    network = seeded_network(name, seed)
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.02 * torch.rand(tensor.shape, generator=generator))
        else:
            tensor.copy_(torch.randint(1000, tensor.shape, generator=generator))
    return network


def make_learner(  # a test sets one or two of these
    network: nn.Module,
    *,
    peer: int = 0,
    seed: int = 0,
    epochs: int = 4,
    batch_size: int = 32,
    lr: float = 0.05,
    schedule: str = "cosine",
    precision: str = "float32",
    splits: Splits | None = None,
    task: Task | None = None,
    **training: Any,
) -> Learner:
    """Return a learner of a network on the CPU, by default with the few digits; `training` has further settings."""
    settings = TrainingSettings.model_validate(
        {"epochs": epochs, "batch_size": batch_size, "lr": lr, "schedule": schedule, "precision": precision} | training
    )
    return Learner(
        network,
        (splits or few_digits()).train,
        settings,
        task or Classification(),
        lr=learning_rate(settings, epochs),
        seed=seed,
        peer=peer,
        device=torch.device("cpu"),
    )


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Faulty(TwoSites):
    """Raises a colorful error after 4 steps of training."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.num_steps = 0

    def forward(self, images: Tensor) -> Tensor:
        self.num_steps += self.training
        if self.num_steps > 4:
            self.fail()
        return super().forward(images)

    def fail(self) -> None:
        raise ZeroDivisionError("\x1b[31mno\0 luck\x1b]0;title\x07\udcff\nin step 5")


class Full(Faulty):
    """Raises, after 4 steps, what another attempt may not."""

    def fail(self) -> None:
        raise torch.OutOfMemoryError("out of memory")


class Growing(Faulty):
    """Gets another layer after 4 steps."""

    def fail(self) -> None:
        self.more = nn.Linear(2, 3)


class Replacing(Faulty):
    """Gets a wider layer after 4 steps, which the optimizer's step fails on."""

    def fail(self) -> None:
        self.classifier.weight.data = torch.zeros(11, 16)
        self.classifier.bias.data = torch.zeros(11)
