"""In which number format a peer trains."""

import torch
from torch import Tensor, nn

__all__ = ["avoid_slow_kernels_", "training_dtype"]

FAST_DEPTHWISE = 3
"""Up to this width of their filters, and at stride 1, depthwise convolutions are fast in bfloat16 on a CPU."""


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the matrix and convolution arithmetic in training.

    `auto` is bfloat16 where the hardware computes in it (a GPU of compute capability 8 or more, a CPU with
    AVX512_BF16 or AMX) and float32 elsewhere. Weights, gradients and the optimizer are float32 in any case.

    Args:
        precision: auto, float32 or bfloat16.
        device: where the peer trains.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if in_hardware else torch.float32


class _Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 where all around it is in bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def avoid_slow_kernels_(network: nn.Module) -> None:
    """Let some convolutions of a network that trains in bfloat16 on a CPU compute in float32.

    For the way back through depthwise convolutions with a stride, or with filters wider than 3, torch has no fast
    kernel in bfloat16 there: it takes several times as long as in float32 (`benchmarks/depthwise.py`).
    """
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels > 1
            and (max(module.stride) > 1 or max(module.kernel_size) > FAST_DEPTHWISE)
        ):
            module.__class__ = _Float32Conv2d
