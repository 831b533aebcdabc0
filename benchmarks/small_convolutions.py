"""Measure convolutions on few pixels, by torch's kernels and by graftpop's products of matrices, on one core.

    python benchmarks/small_convolutions.py [--precision float32 | bfloat16] [--turns 5]      two minutes
    python benchmarks/small_convolutions.py --networks [MODEL ...]                            five minutes

This is why `graftpop.training.convolutions` computes some weight gradients, outputs and input gradients by products,
and where. Its rule is in the last column; the other shapes show where it ends. Batches have 128 images. Both are
measured in alternating turns; times are the shortest turn's, in CPU milliseconds of the one thread, which other load
hardly changes. `--networks` trains whole networks both ways, on CIFAR-10, one batch in each turn.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from roofline import BATCH, PRECISIONS, new_learner
from torch import Tensor, nn
from turns import NUM_TURNS, cpu_timed, in_turns, print_table

from graftpop.cluster.malloc import keep_freed_memory
from graftpop.training import convolutions
from graftpop.training.convolutions import (
    Products,
    depthwise_weight_gradient,
    fast_products,
    input_gradient,
    output_of_products,
    weight_gradient,
)
from graftpop.training.flat_state import FlatState
from graftpop.training.learner import Learner
from graftpop.training.precision import training_dtype

NETWORKS = [
    f"torchvision:{name}" for name in ("resnet18", "vgg16_bn", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")
]
DENSE = (  # input channels, filters, width of a filter, stride, side of the images
    (512, 512, 3, 1, 1),
    (256, 512, 3, 2, 2),
    (512, 512, 3, 1, 2),
    (256, 256, 3, 1, 2),
    (64, 64, 3, 1, 2),
    (32, 32, 3, 1, 2),
    (128, 256, 3, 2, 4),
    (512, 512, 3, 1, 4),
    (256, 256, 3, 1, 4),
    (128, 128, 3, 1, 4),
    (64, 64, 3, 1, 4),
    (256, 256, 3, 1, 8),
    (64, 64, 3, 1, 8),
    (960, 160, 1, 1, 4),
    (320, 1280, 1, 1, 4),
    (256, 256, 1, 1, 4),
    (384, 64, 1, 1, 8),
    (192, 32, 1, 1, 16),
)
MANY_WEIGHTS = (  # likewise, for outputs and input gradients
    (512, 512, 3, 1, 1),
    (256, 512, 3, 2, 2),
    (512, 512, 3, 1, 2),
    (256, 256, 3, 1, 2),
    (128, 256, 3, 1, 2),
    (512, 512, 3, 1, 3),
)
DEPTHWISE = (  # channels, width of a filter, stride, side of the images
    (1152, 3, 1, 1),
    (1152, 5, 1, 1),
    (768, 7, 1, 1),
    (480, 3, 1, 2),
    (672, 5, 1, 2),
    (384, 7, 1, 2),
    (576, 3, 1, 4),
    (240, 5, 1, 4),
    (192, 7, 1, 4),
    (144, 5, 2, 8),
    (144, 5, 1, 8),
    (96, 7, 1, 8),
    (384, 3, 1, 8),
    (96, 5, 2, 16),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--networks", nargs="*", metavar="MODEL")
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if given.networks is not None:
        print_networks(given.networks or NETWORKS, given.turns)
        return
    dtype = getattr(torch, given.precision)
    parts = [("weight gradient", shape, 1) for shape in DENSE]
    parts += [(part, shape, 1) for part in ("output", "input gradient") for shape in MANY_WEIGHTS]
    parts += [("weight gradient", (shape[0], *shape), shape[0]) for shape in DEPTHWISE]
    rows = [measured(part, shape, groups, dtype, given.turns) for part, shape, groups in parts]
    columns = ["part", "channels", "filters", "width", "stride", "px", "groups", "torch, ms", "graftpop, ms", "ratio"]
    print_table([*columns, "used"], rows)


def measured(part: str, shape: tuple[int, ...], groups: int, dtype: torch.dtype, num_turns: int) -> list[str]:
    channels, filters, width, stride, side = shape
    conv = nn.Conv2d(channels, filters, width, stride, width // 2, groups=groups, bias=False)
    FlatState(conv)
    weight = conv.weight.detach().to(dtype)
    images = torch.randn(BATCH, channels, side, side).to(dtype).to(memory_format=torch.channels_last)
    strides, padding = (stride, stride), (width // 2, width // 2)

    def output() -> Tensor:
        return torch.conv2d(images, weight, None, stride, padding, groups=groups)

    def gradients(of_input: bool, of_weight: bool) -> None:
        torch.ops.aten.convolution_backward(
            gradient,
            images,
            weight,
            None,
            strides,
            padding,
            (1, 1),
            False,
            (0, 0),
            groups,
            [of_input, of_weight, False],
        )

    gradient = torch.randn_like(output())
    products = fast_products(conv, images.shape)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object], bool]] = {
        "output": (
            output,
            lambda: output_of_products(images, weight, None, strides, padding),
            products.output_and_input_gradient,
        ),
        "input gradient": (
            lambda: gradients(True, False),
            lambda: input_gradient(gradient, weight, images.shape, strides, padding),
            products.output_and_input_gradient,
        ),
        "weight gradient": (
            lambda: gradients(False, True),
            lambda: (weight_gradient if groups == 1 else depthwise_weight_gradient)(
                gradient, images, weight.shape[2:], strides, padding
            ),
            products.weight_gradient,
        ),
    }
    by_torch, by_products, used = ways[part]
    torchs, ours = map(min, in_turns(cpu_timed(by_torch), cpu_timed(by_products), num_turns=num_turns))
    times = [f"{1000 * torchs:.2f}", f"{1000 * ours:.2f}", f"{torchs / ours:.2f}"]
    return [part, *map(str, shape), str(groups), *times, "yes" if used else "no"]


def print_networks(models: list[str], num_turns: int) -> None:
    """Print the images per second of whole networks in training, by torch's kernels and by graftpop's."""
    rows = []
    for model in models:
        for precision in PRECISIONS:
            learner = new_learner(model, precision, num_batches=1)
            times = in_turns(
                cpu_timed(partial(train_by_torch, learner)), cpu_timed(learner.train_epoch), num_turns=num_turns
            )
            torchs, ours = map(statistics.median, times)
            ratios = sorted(one / other for one, other in zip(*times, strict=True))
            rates = [f"{BATCH / torchs:.1f}", f"{BATCH / ours:.1f}"]
            dtype = str(training_dtype(precision, torch.device("cpu"))).removeprefix("torch.")
            rows.append([model, dtype, *rates, *(f"{ratio:.2f}" for ratio in (torchs / ours, ratios[0], ratios[-1]))])
    print_table(["model", "precision", "torch, images/s", "graftpop, images/s", "ratio", "from", "to"], rows)


def train_by_torch(learner: Learner) -> None:
    """Train an epoch without products."""
    fast = convolutions.fast_products
    convolutions.fast_products = lambda conv, image_shape: Products(False, False)
    try:
        learner.train_epoch()
    finally:
        convolutions.fast_products = fast


if __name__ == "__main__":
    main()
