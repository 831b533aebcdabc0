"""Measure the weight gradient of convolutions on few pixels, torch's and graftpop's, on one core.

    python benchmarks/small_convolutions.py [--precision float32 | bfloat16] [--turns 5]      under two minutes

This is why `graftpop.training.weight_gradient` computes some weight gradients by products of matrices, and where. Its
rule is in the last column; the other shapes show where it ends. Batches have 128 images. Both are measured in
alternating turns; times are the shortest turn's, in CPU milliseconds of the one thread, which other load hardly
changes.
"""

import argparse

import torch
from torch import nn
from turns import NUM_TURNS, cpu_timed, in_turns, print_table

from graftpop.cluster.malloc import keep_freed_memory
from graftpop.training.flat_state import FlatState
from graftpop.training.weight_gradient import is_faster, weight_gradient

BATCH = 128
SHAPES = (  # input channels, filters, width of a filter, stride, side of the images
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    dtype = getattr(torch, given.precision)
    rows = [measured(shape, dtype, given.turns) for shape in SHAPES]
    print_table(["channels", "filters", "width", "stride", "px", "torch, ms", "graftpop, ms", "ratio", "used"], rows)


def measured(shape: tuple[int, int, int, int, int], dtype: torch.dtype, num_turns: int) -> list[str]:
    channels, filters, width, stride, side = shape
    conv = nn.Conv2d(channels, filters, width, stride, width // 2, bias=False)
    FlatState(conv)
    weight = conv.weight.detach().to(dtype)
    images = torch.randn(BATCH, channels, side, side).to(dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        gradient = torch.randn_like(torch.conv2d(images, weight, None, stride, width // 2))
    strides, padding = (stride, stride), (width // 2, width // 2)

    def by_torch() -> None:
        torch.ops.aten.convolution_backward(
            gradient, images, weight, None, strides, padding, (1, 1), False, (0, 0), 1, [False, True, False]
        )

    def by_products() -> None:
        weight_gradient(gradient, images, weight.shape[2:], strides, padding)

    torchs, ours = map(min, in_turns(cpu_timed(by_torch), cpu_timed(by_products), num_turns=num_turns))
    used = "yes" if is_faster(conv, images.shape) else "no"
    return [*map(str, shape), f"{1000 * torchs:.2f}", f"{1000 * ours:.2f}", f"{torchs / ours:.2f}", used]


if __name__ == "__main__":
    main()
