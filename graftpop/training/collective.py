"""Collectives as generators: a call that needs the arrays of all peers yields its own array and receives all of them.

Peers that run such a call in lockstep gather their arrays at every `yield`, as an all-gather does:

    all_logits = yield logits        # (...) out; (K, ...) back, one row per peer

The driver of the generators decides how the arrays travel. It stacks the arrays of peers in its own process, or gathers
them from other processes.
"""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CollectiveCall", "run_alone", "as_numpy_collective"]

Result = TypeVar("Result")
CollectiveCall: TypeAlias = Generator[NDArray[np.float32], NDArray[np.float32], Result]
"""Yields an array, is sent the arrays of all K peers stacked along a new first dimension, and returns a result."""


def run_alone(collective: Generator[Any, Any, Result], otherwise: str) -> Result:
    """Return the result of a collective that yields no array and so needs no other peer.

    Args:
        collective: the generator to run.
        otherwise: message of the error if it yields.

    Raises:
        RuntimeError: the collective yields an array.
    """
    try:
        next(collective)
    except StopIteration as done:
        return cast(Result, done.value)
    raise RuntimeError(otherwise)


def as_numpy_collective(steps: Generator[Tensor, Tensor, Result], device: torch.device) -> CollectiveCall[Result]:
    """Turn a collective of tensors on a device into one of numpy arrays, which can travel between processes.

    Args:
        steps: yields a tensor and is sent the tensors of all peers, stacked.
        device: the device of the tensors sent to it.
    """
    gathered: Tensor | None = None
    while True:
        try:
            own = next(steps) if gathered is None else steps.send(gathered)
        except StopIteration as done:
            return cast(Result, done.value)
        gathered = torch.from_numpy((yield own.cpu().numpy())).to(device)
