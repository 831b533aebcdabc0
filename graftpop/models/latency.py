"""Latency of networks, measured side by side."""

import statistics
import time
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from graftpop.models.forward_check import blank_images, eval_copy

__all__ = ["measure_latencies"]

FEWEST_TURNS: Final = 3
MOST_TURNS: Final = 31
BUDGET_S: Final = 1.0
"""Seconds; another turn begins only while all turns together took less."""


def measure_latencies(networks: Sequence[nn.Module], image_shape: tuple[int, ...], batch_size: int) -> list[float]:
    """Return the median duration of a forward pass of each network, in seconds.

    The networks take turns, so other work on the machine slows them all alike: ratios are reliable, durations hold for
    this machine at this moment. Networks run in evaluation mode, in float32, after one pass that is not counted. Their
    tensors are made contiguous, since a trained network may have another memory format and so use other kernels.

    Args:
        networks: networks on one device; not changed.
        image_shape: (C, H, W) of their images.
        batch_size: images per pass.
    """
    copies = [eval_copy(network).to(memory_format=torch.contiguous_format) for network in networks]
    images = blank_images(copies[0], batch_size, image_shape)

    def wait() -> None:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    durations: list[list[float]] = [[] for _ in copies]
    with torch.inference_mode():
        for network in copies:
            network(images)
        wait()
        begin = time.perf_counter()
        while len(durations[0]) < MOST_TURNS and (
            len(durations[0]) < FEWEST_TURNS or time.perf_counter() - begin < BUDGET_S
        ):
            for network, of_network in zip(copies, durations, strict=True):
                start = time.perf_counter()
                network(images)
                wait()
                of_network.append(time.perf_counter() - start)
    return [statistics.median(of_network) for of_network in durations]
