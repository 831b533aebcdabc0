"""CUDA cards: the arithmetic of a process, and copies to the host."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from graftpop.errors import SpaceError

__all__ = ["set_up_cuda", "to_host"]

WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES: Final = (":4096:8", ":16:8")
"""Values of WORKSPACE with which cuBLAS gives equal results in every run."""


def set_up_cuda(*, deterministic: bool) -> None:
    """Set the arithmetic of this process on CUDA cards; call it before the first tensor is on a card.

    Float32 is computed as such; by default torch rounds the factors of convolutions to 10 bits (TF32). Unless it must
    be deterministic, cuDNN measures its algorithms at the first batch of each shape and takes the fastest.

    Args:
        deterministic: use only algorithms with equal results in every run; operations without one raise RuntimeError.

    Raises:
        SpaceError: CUDA has already started without the workspace that deterministic algorithms need.
    """
    if not torch.cuda.is_initialized():  # cuBLAS reads it once; a process of peers may be deterministic later
        os.environ.setdefault(WORKSPACE, DETERMINISTIC_WORKSPACES[0])
    workspace = os.environ.get(WORKSPACE)
    if deterministic and workspace not in DETERMINISTIC_WORKSPACES:
        raise SpaceError(
            f"training.deterministic: true needs {WORKSPACE} to be {' or '.join(DETERMINISTIC_WORKSPACES)} before "
            f"CUDA starts, got {workspace or 'none'}; set it in the environment of the process"
        )
    cudnn: Any = torch.backends.cudnn  # without types for its parts
    with warnings.catch_warnings():  # some versions of torch warn of its older names of these settings
        warnings.simplefilter("ignore")
        # through both interfaces, because torch raises an error where they differ, and the user may use either
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    torch.use_deterministic_algorithms(deterministic)
    cudnn.benchmark = not deterministic


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the CPU, detached; the host waits once for all copies from a card.

    They are copied into pinned memory, which torch keeps for further copies. A tensor on the CPU is not copied.
    """
    is_pinned = torch.cuda.is_available()  # without a card, tensors that imitate one have no pinned memory
    copies = [
        tensor.detach()
        if tensor.device.type == "cpu"
        else torch.empty_like(tensor, device="cpu", pin_memory=is_pinned).copy_(tensor.detach(), non_blocking=True)
        for tensor in tensors
    ]
    for device in {tensor.device for tensor in tensors if tensor.is_cuda} if is_pinned else ():
        torch.cuda.current_stream(device).synchronize()
    return copies
