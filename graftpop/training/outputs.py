"""Outputs of a task: a tensor, or a tuple of outputs."""

from collections.abc import Sequence

import torch

from graftpop.tasks.task import Outputs

__all__ = ["in_float32", "joined"]


def in_float32(outputs: Outputs) -> Outputs:
    """Return outputs with their floating-point tensors in float32."""
    if isinstance(outputs, tuple):
        return tuple(map(in_float32, outputs))
    return outputs.float() if outputs.is_floating_point() else outputs


def joined(batches: Sequence[Outputs]) -> Outputs:
    """Return the outputs of all batches in one, on the CPU."""
    if isinstance(batches[0], tuple):
        return tuple(joined(parts) for parts in zip(*batches, strict=True))
    return torch.cat(list(batches)).cpu()
