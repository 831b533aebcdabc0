"""Methods that meet with the other peers' calls of them, as generators.

Such a method yields an array and is sent the arrays of all peers, stacked. Who drives it decides how they get there:
from peers in this process, or from other processes by a collective.
"""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CollectiveCall", "Collective", "run_alone", "as_numpy_collective"]

Result = TypeVar("Result")
CollectiveCall: TypeAlias = Generator[NDArray[np.float32], NDArray[np.float32], Result]
Collective: TypeAlias = CollectiveCall[dict[str, Any]]


def run_alone(collective: Generator[Any, Any, Result], otherwise: str) -> Result:
    """Return the result of a meeting in which nobody has anything to say.

    Args:
        collective: a method's call.
        otherwise: what the error says where someone has.

    Raises:
        RuntimeError: someone has something to say.
    """
    try:
        next(collective)
    except StopIteration as done:
        return cast(Result, done.value)
    raise RuntimeError(otherwise)


def as_numpy_collective(steps: Generator[Tensor, Tensor, Result], device: torch.device) -> CollectiveCall[Result]:
    """Let a meeting of tensors on a device be one of arrays, which travel between processes."""
    everyone: Tensor | None = None
    while True:
        try:
            own = next(steps) if everyone is None else steps.send(everyone)
        except StopIteration as done:
            return cast(Result, done.value)
        everyone = torch.from_numpy((yield own.cpu().numpy())).to(device)
