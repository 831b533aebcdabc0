"""Measure depthwise and other convolutions on one core, forward and backward, in float32 and bfloat16.

    python benchmarks/depthwise.py      under a minute

This is why `graftpop.training.convolutions` keeps some convolutions in float32 when the rest trains in bfloat16. On a
CPU, torch has no fast bfloat16 kernel for the backward pass of a depthwise convolution with a stride or a filter wider
than 3. The shapes are similar to MobileNetV2's; the batch size is 64.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from turns import print_table

BATCH, NUM_TURNS = 64, 5
SHAPES = {  # input channels, width of a filter, groups, stride, side of the images
    "depthwise, 3x3": (192, 3, 192, 1, 16),
    "depthwise, 3x3, stride 2": (192, 3, 192, 2, 16),
    "depthwise, 5x5": (192, 5, 192, 1, 16),
    "32 groups, 3x3, stride 2": (192, 3, 32, 2, 16),
    "dense, 3x3, stride 2": (64, 3, 1, 2, 16),
    "dense, 1x1": (192, 1, 1, 1, 16),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, shape in SHAPES.items():
        turns = [[*took_ms(shape, torch.float32), *took_ms(shape, torch.bfloat16)] for _ in range(NUM_TURNS + 1)][1:]
        rows.append([name, *(f"{statistics.median(column):.2f}" for column in zip(*turns, strict=True))])
    print_table(["ms", "float32 forward", "back", "bfloat16 forward", "back"], rows)


def took_ms(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> tuple[float, float]:
    channels, width, groups, stride, side = shape
    conv = nn.Conv2d(channels, channels, width, stride, width // 2, groups=groups, bias=False)
    conv = conv.to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = conv(images)
    forward_s = time.perf_counter() - start
    gradient = torch.ones_like(output)
    start = time.perf_counter()
    output.backward(gradient)
    return 1000 * forward_s, 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
