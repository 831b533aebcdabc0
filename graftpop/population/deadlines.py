"""Timeouts of calls to peers: a multiple of the median round so far."""

import statistics

from graftpop.settings import PopulationSettings

__all__ = ["SHORTEST_S", "Deadlines"]

SHORTEST_S = 60.0
"""The shortest timeout, in seconds: below it the machine's other load matters more than a peer's speed."""


class Deadlines:
    """The timeout of one round's calls.

        timeout = min(round_timeout_s, max(60 s, deadline_factor * median round))

    Before the first complete round it is `round_timeout_s`. With a factor of 10 and rounds of 8, 9 and 30 s it is 90 s.

    Args:
        settings: `deadline_factor` and `round_timeout_s`.
    """

    def __init__(self, settings: PopulationSettings) -> None:
        self._settings = settings
        self._rounds_s: list[float] = []

    def add(self, round_s: float) -> None:
        """Record the duration of a round in seconds."""
        self._rounds_s.append(round_s)

    def restart(self) -> None:
        """Forget all rounds, because the next ones will take more or less time."""
        self._rounds_s.clear()

    @property
    def timeout_s(self) -> float:
        """Seconds to wait for the calls of one round."""
        most = self._settings.round_timeout_s
        if not self._rounds_s:
            return most
        return min(most, max(SHORTEST_S, self._settings.deadline_factor * statistics.median(self._rounds_s)))
