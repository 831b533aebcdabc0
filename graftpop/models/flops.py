"""How large a network is: floating-point operations of one image, and parameters."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graftpop.models.forward_check import blank_images, eval_copy

__all__ = ["count_flops", "count_parameters"]


def count_flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of one image's way through the network, forward alone.

    Convolutions and matrix products count, each multiply-add as 2. Papers on pruning mostly count it as 1, so that
    their "FLOPs" are half of these. BatchNorm, activations, sums and pooling count nothing, as there.

    Args:
        network: any module from images (B, C, H, W) to logits; it is not changed.
        image_shape: (C, H, W).
    """
    twin = eval_copy(network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(blank_images(twin, 1, image_shape))
    return int(counter.get_total_flops())


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained numbers; tied weights count once, running statistics not at all."""
    return sum(parameter.numel() for parameter in network.parameters())
