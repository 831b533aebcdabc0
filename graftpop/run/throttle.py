"""Doing something again and again, but never for more than a share of the time."""

import time
from collections.abc import Callable

__all__ = ["Throttle"]


class Throttle:
    """What may be done anew at any moment, and is left for later where it would take too much of the time.

    Args:
        share: of the time, at most, in (0, 1).
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._ended_at = 0.0
        self._took_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether enough time has gone by since it was done last."""
        return time.monotonic() - self._ended_at >= self._took_s / self._share

    def do(self, act: Callable[[], None]) -> None:
        """Do it, and take note of how long it took."""
        start = time.monotonic()
        try:
            act()
        finally:
            self._ended_at = time.monotonic()
            self._took_s = self._ended_at - start
