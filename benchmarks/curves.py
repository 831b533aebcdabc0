"""Hold a faster computation to torch's own in training: loss curves over 200 steps, and the accuracy after them.

    python benchmarks/curves.py [--way torch | bfloat16] [--seeds 5] [--steps 200]      half an hour

torchvision's ResNet-18 trains on CIFAR-10 in batches of 32 on one core, once as graftpop computes by default in
float32, and once the other way: with torch's convolutions instead of those of `graftpop.training.convolutions`, or in
bfloat16. A seed has the same initial weights, images, order and augmentation in both. Each step rounds
differently, and training amplifies that like a small change of the initial weights. So a faster computation is sound
if the paired differences center on 0 and none is larger than the differences between seeds. The table has the mean
training loss of each quarter of the steps and the accuracy on 5,000 held-out images: mean and standard deviation over
the seeds, the mean paired difference with its 95 % interval, and the largest difference of one seed.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn
from turns import print_table

from graftpop.cluster.malloc import keep_freed_memory
from graftpop.comparison.difference import paired_difference
from graftpop.data import load_splits
from graftpop.models import build
from graftpop.run.provenance import run_provenance
from graftpop.seeds import seeded
from graftpop.settings import DataSettings, TrainingSettings
from graftpop.tasks.classification import Classification
from graftpop.training.learner import Learner

MODEL, BATCH, LR = "torchvision:resnet18", 32, 0.01
VAL_IMAGES, NUM_QUARTERS = 5_000, 4
CPU: Final = torch.device("cpu")
WAYS = ("torch", "bfloat16")


class WithLosses(Classification):
    """Classification that keeps the loss of every training batch in `losses`."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().loss(outputs, targets)
        self.losses.append(float(loss.detach()))
        return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, default="torch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    default: dict[int, list[float]] = {}
    other: dict[int, list[float]] = {}
    for seed in range(given.seeds):
        default[seed] = trained(seed, given.steps, None)
        other[seed] = trained(seed, given.steps, given.way)
        print(json.dumps({"seed": seed, "default": default[seed], given.way: other[seed]}), flush=True)
    names = [*(f"loss, quarter {quarter + 1}" for quarter in range(NUM_QUARTERS)), "accuracy"]
    rows = [
        row(name, [default[seed][place] for seed in default], [other[seed][place] for seed in other])
        for place, name in enumerate(names)
    ]
    other_name = "torch's convolutions" if given.way == "torch" else given.way
    print_table(["", "default", other_name, "default minus other, 95 %", "largest of one seed"], rows)
    provenance = run_provenance([], 0)
    print(json.dumps({key: provenance[key] for key in ("git", "hardware", "versions")}))


def trained(seed: int, num_steps: int, way: Literal["torch", "bfloat16"] | None) -> list[float]:
    """Train for an epoch of `num_steps` and return the mean loss of each quarter, then the accuracy.

    Args:
        seed: seeds weights, images, order and augmentation.
        num_steps: optimizer steps.
        way: what differs from the default in float32; None for nothing.
    """
    num_images = num_steps * BATCH + VAL_IMAGES
    data = DataSettings(name="cifar10", max_train_images=num_images, val_fraction=VAL_IMAGES / num_images)
    splits = load_splits(data, seed=seed)
    task = WithLosses()
    with seeded(seed, CPU):
        network = build(MODEL, 10)
    learner = Learner(
        network,
        splits.train,
        TrainingSettings(batch_size=BATCH, precision="bfloat16" if way == "bfloat16" else "float32"),
        task,
        lr=lambda epoch: LR,
        seed=seed,
        peer=0,
        device=CPU,
    )
    if way == "torch":
        use_torch_(network)
    learner.train_epoch()
    outputs, targets = learner.evaluate(splits.val)
    quarter = num_steps // NUM_QUARTERS
    means = [
        statistics.mean(task.losses[start : start + quarter]) for start in range(0, quarter * NUM_QUARTERS, quarter)
    ]
    return [*means, task.score(task.predict(outputs), targets)["accuracy"]]


def use_torch_(network: nn.Module) -> None:
    """Make the convolutions of a learner's network torch's own again."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d


def row(name: str, default: Sequence[float], other: Sequence[float]) -> list[str]:
    difference = paired_difference(dict(enumerate(default)), dict(enumerate(other)))
    assert difference is not None
    interval = "" if difference.interval is None else " ({:+.4f} to {:+.4f})".format(*difference.interval)
    largest = max(difference.by_seed.values(), key=abs)
    return [name, with_std(default), with_std(other), f"{difference.mean:+.4f}{interval}", f"{largest:+.4f}"]


def with_std(values: Sequence[float]) -> str:
    std = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{std}"


if __name__ == "__main__":
    main()
