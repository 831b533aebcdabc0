"""The number format in which a peer trains."""

import torch
from torch import Tensor, nn

__all__ = ["avoid_slow_kernels_", "training_dtype"]

FAST_DEPTHWISE = 3
"""Largest kernel size of depthwise convolutions with stride 1 that are fast in bfloat16 on a CPU."""


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix and convolution arithmetic in training.

    `auto` is bfloat16 on hardware that computes in it (a GPU of compute capability 8 or more, a CPU with AVX512_BF16
    or AMX) and float32 elsewhere. Weights, gradients and optimizer state are always float32.

    Args:
        precision: auto, float32 or bfloat16.
        device: the peer's device.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if in_hardware else torch.float32


class _Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 under bfloat16 autocast."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(input.device.type):
            return super().forward(input)  # a copy may be in double precision
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def avoid_slow_kernels_(network: nn.Module) -> None:
    """Make the convolutions of a network that are slow in bfloat16 on a CPU compute in float32.

    These are depthwise convolutions with a stride above 1 or a kernel wider than 3. Torch has no fast bfloat16 kernel
    for their backward pass: it takes several times as long as in float32 (`benchmarks/depthwise.py`).
    """
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels > 1
            and (max(module.stride) > 1 or max(module.kernel_size) > FAST_DEPTHWISE)
        ):
            module.__class__ = _Float32Conv2d
