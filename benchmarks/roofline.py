"""Measure training against the peak of one core: floating-point operations and bytes per second.

    python benchmarks/roofline.py [--models resnet20 ...] [--turns 5] [--operations]      about five minutes on 2 cores

One peer trains in this process on one thread: CIFAR-10, batches of 128, in float32 and in the precision that `auto`
selects. Its operations are those of convolutions and classifier, forward and twice as many backward; products with
padding count, though graftpop skips some. BatchNorm, activations, augmentation and the optimizer take time but count as
0 operations.

The peak is measured in alternating turns, in the same precision: the product of two large matrices, and convolutions
with a 3x3 kernel and as many filters as channels. None of these is a bound alone: the library for products is slower
than convolutions on some processors. So the bound ("at most") is the fastest turn of the fastest of them, named under
"by". A copy in memory counts bytes read and written. Training moves at least the activations of a step, written once
and read once. The time for that at the speed of the copy is a second bound. All times are CPU seconds of the one
thread, which other load hardly changes.

`--operations` prints instead which operations an epoch spends its time on, by torch's profiler.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Final, Literal

import torch
from turns import NUM_TURNS, cpu_timed, in_turns, print_table

from graftpop.cluster.malloc import keep_freed_memory
from graftpop.data import load_splits
from graftpop.models import build
from graftpop.models.flops import count_flops
from graftpop.run.provenance import run_provenance
from graftpop.settings import DataSettings, TrainingSettings
from graftpop.tasks.classification import Classification
from graftpop.training.learner import Learner
from graftpop.training.precision import training_dtype

MODELS = ("resnet20", "resnet32", "torchvision:resnet18", "mobilenetv2")
PRECISIONS: Final[tuple[Literal["auto", "float32"], ...]] = ("auto", "float32")
BATCH, NUM_BATCHES = 128, 2
VAL_IMAGES = 10
SIDE = 2048
CONVOLUTIONS = ((64, 16, 128), (128, 16, 64), (128, 32, 16), (256, 8, 64), (256, 16, 16))
"""Channels, side of the images in pixels, and images."""

OPERATIONS = {
    "convolution": ("convolution",),
    "BatchNorm": ("batch_norm",),
    "ReLU": ("relu", "clamp", "threshold", "hardtanh"),
    "addition": ("aten::add",),
}
"""Words in the names of torch's operations, by kind."""

COPIED_BYTES = 2**28
FORWARD_AND_BACKWARD = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    parser.add_argument("--operations", action="store_true")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    dtypes = {precision: training_dtype(precision, torch.device("cpu")) for precision in PRECISIONS}
    precisions = PRECISIONS if len(set(dtypes.values())) > 1 else PRECISIONS[:1]
    found = [
        time_of_operations(model, precision) if given.operations else measured(model, precision, given.turns)
        for model in given.models
        for precision in precisions
    ]
    columns = list(found[0])
    print_table(
        columns, [[value if isinstance(value, str) else f"{value:,.4g}" for value in case.values()] for case in found]
    )
    print(
        json.dumps(
            {
                "name": "roofline",
                "turns": given.turns,
                **{key: run_provenance([], 0)[key] for key in ("hardware", "git", "versions")},
                "cases": found,
            }
        )
    )


def measured(model: str, precision: Literal["auto", "float32"], num_turns: int) -> dict[str, str | float]:
    dtype = training_dtype(precision, torch.device("cpu"))
    num_images = BATCH * NUM_BATCHES
    learner = new_learner(model, precision)
    flops = FORWARD_AND_BACKWARD * count_flops(learner.network, (3, 32, 32))
    peaks = {"product": product_of_matrices(dtype)}
    peaks |= {f"{shape[0]} channels, {shape[1]} px": convolution(*shape, dtype) for shape in CONVOLUTIONS}
    train_s, copy_s, *peaks_s = in_turns(
        cpu_timed(learner.train_epoch), copying(), *(act for act, _ in peaks.values()), num_turns=num_turns
    )
    rates = {name: peaks[name][1] / min(seconds) for name, seconds in zip(peaks, peaks_s, strict=True)}
    fastest = max(rates, key=lambda name: rates[name])
    images_per_s = num_images / statistics.median(train_s)
    most_flops, most_bytes = rates[fastest], 2 * COPIED_BYTES / statistics.median(copy_s)
    moved = 2 * activation_bytes(learner, dtype)
    return {
        "model": model,
        "precision": str(dtype).removeprefix("torch."),
        "images/s": round(images_per_s, 1),
        "GFLOP/s": round(images_per_s * flops / 1e9, 1),
        "product": round(rates["product"] / 1e9, 1),
        "at most": round(most_flops / 1e9, 1),
        "by": fastest,
        "share": round(images_per_s * flops / most_flops, 3),
        "GB/s": round(images_per_s * moved / 1e9, 2),
        "copy, GB/s": round(most_bytes / 1e9, 2),
        "share of bytes": round(images_per_s * moved / most_bytes, 3),
    }


def time_of_operations(model: str, precision: Literal["auto", "float32"]) -> dict[str, str | float]:
    """Return the CPU seconds of an epoch, and the share of each kind of operation, forward and backward."""
    learner = new_learner(model, precision)
    learner.train_epoch()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        learner.train_epoch()
    seconds = dict.fromkeys([*OPERATIONS, "rest"], 0.0)
    for event in profiler.key_averages():
        kinds = (kind for kind, words in OPERATIONS.items() if any(word in event.key for word in words))
        seconds[next(kinds, "rest")] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    return {
        "model": model,
        "precision": str(training_dtype(precision, torch.device("cpu"))).removeprefix("torch."),
        "epoch, s": round(total, 2),
        **{kind: round(spent / total, 3) for kind, spent in seconds.items()},
    }


def new_learner(model: str, precision: Literal["auto", "float32"], num_batches: int = NUM_BATCHES) -> Learner:
    limit = BATCH * num_batches + VAL_IMAGES
    data = DataSettings(name="cifar10", max_train_images=limit, val_fraction=VAL_IMAGES / limit)
    return Learner(
        build(model, 10),
        load_splits(data, seed=0).train,
        TrainingSettings(batch_size=BATCH, precision=precision),
        Classification(),
        lr=lambda epoch: 0.05,
        seed=0,
        peer=0,
        device=torch.device("cpu"),
    )


def product_of_matrices(dtype: torch.dtype) -> tuple[Callable[[], float], int]:
    """Return a function that multiplies two matrices and returns its seconds, and its floating-point operations."""
    one, other = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return cpu_timed(lambda: torch.mm(one, other)), 2 * SIDE**3


def convolution(channels: int, side: int, num_images: int, dtype: torch.dtype) -> tuple[Callable[[], float], int]:
    """Return a function that convolves images and returns its seconds, and its floating-point operations."""
    images, weight = (
        torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((num_images, channels, side, side), (channels, channels, 3, 3))
    )
    return (cpu_timed(lambda: torch.conv2d(images, weight, padding=1)), 2 * num_images * side**2 * channels**2 * 9)


def copying() -> Callable[[], float]:
    source, target = (torch.ones(COPIED_BYTES, dtype=torch.uint8) for _ in range(2))
    return cpu_timed(lambda: target.copy_(source))


def activation_bytes(learner: Learner, dtype: torch.dtype) -> float:
    """Return the bytes per image that the forward pass saves for the backward pass."""
    network = learner.network.train()
    images = torch.zeros(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        logits = network(images)
    del logits
    weights = learner.state.buffer.untyped_storage()
    return sum(size for place, size in kept.items() if place != weights.data_ptr()) / BATCH


if __name__ == "__main__":
    main()
