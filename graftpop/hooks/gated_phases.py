"""The phases of gated pruning, whole epochs of the training; without torch, for the checks of a space."""

import math
from typing import Literal, NamedTuple

from graftpop.settings.pruning import PruningSettings

__all__ = ["Phases", "phases_of"]

Phase = Literal["tick", "tock", "train"]


class Phases(NamedTuple):
    """The phases of a training.

    Attributes:
        first: epoch that begins the first tock.
        last: epoch before which the last units are dropped.
        ticks: ticks in a cycle.
        tock_epochs: epochs of a tock.
    """

    first: int
    last: int
    ticks: int
    tock_epochs: int

    def of(self, epoch: int) -> Phase:
        """Return the phase of an epoch, counted from 0."""
        if not self.first <= epoch < self.last:
            return "train"
        return "tock" if (epoch - self.first) % (self.tock_epochs + self.ticks) < self.tock_epochs else "tick"

    def num_ticks(self, epoch: int) -> int:
        """Return the number of ticks before an epoch."""
        return sum(self.of(earlier) == "tick" for earlier in range(epoch))


def phases_of(settings: PruningSettings, epochs: int) -> Phases:
    """Return the phases of a training of some epochs."""
    first = math.floor(settings.start * epochs + 1e-9)
    last = epochs - math.floor(settings.finetune * epochs + 1e-9)
    return Phases(first, last, settings.ticks, settings.tock_epochs)
