"""Size of a network: floating-point operations per image, and parameters."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graftpop.models.forward_check import blank_images, eval_copy

__all__ = ["count_flops", "count_parameters"]


def count_flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of the forward pass of one image.

    Convolutions and matrix products count, each multiply-add as 2. Most pruning papers count it as 1: their "FLOPs" are
    half of these. BatchNorm, activations, sums and pooling do not count, as in those papers.

    Args:
        network: maps images (B, C, H, W) to logits; not changed.
        image_shape: (C, H, W).
    """
    network_copy = eval_copy(network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network_copy(blank_images(network_copy, 1, image_shape))
    return int(counter.get_total_flops())


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters; tied weights count once, running statistics do not count."""
    return sum(parameter.numel() for parameter in network.parameters())
