"""The number format in which a peer trains."""

import torch

__all__ = ["training_dtype"]


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
