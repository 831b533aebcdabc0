"""Limit a repeated action to a share of the running time."""

import time
from collections.abc import Callable

__all__ = ["Throttle"]


class Throttle:
    """Makes a repeated action wait until it takes at most a share of the time.

    An action that took 2 s with a share of 0.1 is due again after 20 s.

    Args:
        share: largest share of the time, in (0, 1).
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._ended_at = 0.0
        self._took_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last action."""
        return time.monotonic() - self._ended_at >= self._took_s / self._share

    def do(self, act: Callable[[], None]) -> None:
        """Run the action and measure its duration, also if it fails."""
        start = time.monotonic()
        try:
            act()
        finally:
            self._ended_at = time.monotonic()
            self._took_s = self._ended_at - start
