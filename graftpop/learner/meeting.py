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

from graftpop.learner.training import EpochMetrics, Steps

__all__ = ["Exchanging", "Meeting", "finished", "in_numpy"]

Result = TypeVar("Result")
Exchanging: TypeAlias = Generator[NDArray[np.float32], NDArray[np.float32], Result]
Meeting: TypeAlias = Exchanging[dict[str, Any]]


def finished(meeting: Meeting) -> dict[str, Any]:
    """Return the result of a meeting in which nobody has anything to say."""
    try:
        next(meeting)
    except StopIteration as done:
        return dict(done.value)
    raise RuntimeError("finished: someone has something to say in this meeting")


def in_numpy(steps: Steps, device: torch.device) -> Exchanging[EpochMetrics]:
    """Let an epoch meet with others by arrays, which travel between processes, instead of tensors on a device."""
    everyone: Tensor | None = None
    while True:
        try:
            own = next(steps) if everyone is None else steps.send(everyone)
        except StopIteration as done:
            return cast(EpochMetrics, done.value)
        everyone = torch.from_numpy((yield own.cpu().numpy())).to(device)
