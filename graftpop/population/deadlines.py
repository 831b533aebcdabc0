"""How long to wait for peers: so many times what a round took so far."""

import statistics

from graftpop.settings import PopulationSettings

__all__ = ["SHORTEST_S", "Deadlines"]

SHORTEST_S = 60.0
"""No deadline is shorter: below it what else a machine does weighs more than how fast a peer is."""


class Deadlines:
    """The deadline of what peers are asked for, from the median of the rounds so far.

    Args:
        settings: with the factor, and the limit that stands before the first round.
    """

    def __init__(self, settings: PopulationSettings) -> None:
        self._settings = settings
        self._rounds_s: list[float] = []

    def add(self, round_s: float) -> None:
        """Learn how long a round took."""
        self._rounds_s.append(round_s)

    @property
    def timeout_s(self) -> float:
        """How long to wait for what peers do in one round: `deadline_factor` medians, at most `round_timeout_s`."""
        most = self._settings.round_timeout_s
        if not self._rounds_s:
            return most
        return min(most, max(SHORTEST_S, self._settings.deadline_factor * statistics.median(self._rounds_s)))
