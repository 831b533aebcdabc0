"""Who takes part in a population, and what becomes of peers that are lost: counted, started anew, or left behind."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from graftpop.errors import PeerError, PopulationLost
from graftpop.population.group import Group
from graftpop.population.round import Event
from graftpop.settings import PopulationSettings

__all__ = ["Roster"]

SECONDS_BETWEEN_STARTS = 1.0


class Roster:
    """The peers of a population, and how often each was lost.

    Args:
        group: the peers as they are.
        settings: how often, and how long, a lost peer is waited for.
        on_event: called with what happens.

    Attributes:
        peers: who takes part.
        num_restarts: by peer, how often it was started anew.
    """

    def __init__(self, group: Group, settings: PopulationSettings, on_event: Callable[[Event], None]) -> None:
        self.peers = list(range(settings.num_peers))
        self.num_restarts: Counter[int] = Counter()
        self._group, self._settings, self._on_event = group, settings, on_event
        self._away_since: dict[int, float] = {}
        self._away_until: dict[int, float] = {}

    def lose(self, peer: int, error: PeerError, round: int) -> None:
        """Take note that a peer is lost.

        Raises:
            PeerError: it was lost more often than it may be.
        """
        now = time.monotonic()
        self._away_since.setdefault(peer, now)
        self._away_until[peer] = now + self._settings.replace_timeout_s
        self._on_event(Event(round, peer, "lost", str(error)))
        self.num_restarts[peer] += 1
        most = self._settings.max_peer_restarts
        if self.num_restarts[peer] > most:
            raise PeerError(f"{error} (replaced {most} times before, as many as population.max_peer_restarts allows)")

    def is_away(self, peer: int) -> bool:
        """Return whether a peer was lost and is not back."""
        return peer in self._away_since

    def left_s(self, peer: int) -> float:
        """Return how long a lost peer may still take to find room and to start; at or below 0 it is too late."""
        return self._away_until[peer] - time.monotonic()

    def start_anew(self, peers: Iterable[int]) -> list[int]:
        """Start lost peers anew and wait until they answer; return those that did not in the time they have.

        Where the node of a peer is gone, room for it is looked for on others meanwhile.
        """
        absent = list(peers)
        while absent:
            self._group.restart(absent)
            left_s = max(0.0, min(map(self.left_s, absent)))
            answers = dict(self._group.run("process_id", dict.fromkeys(absent, ()), left_s))
            absent = sorted(self._group.coresident([peer for peer in absent if isinstance(answers[peer], PeerError)]))
            if not absent or min(map(self.left_s, absent)) <= SECONDS_BETWEEN_STARTS:
                break
            time.sleep(SECONDS_BETWEEN_STARTS)
        return absent

    def came_back(self, peer: int, round: int) -> None:
        """Take note that a peer that was lost is where it was."""
        since = self._away_since.pop(peer)
        self._on_event(Event(round, peer, "replaced", "", time.monotonic() - since))

    def leave(self, absent: Collection[int], round: int) -> None:
        """Go on without peers that found no room.

        Raises:
            PopulationLost: too few are left.
        """
        left, fewest = len(self.peers) - len(absent), self._settings.min_peers or self._settings.num_peers
        who = f"peer{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}"
        cause = f"{who}: found no room on the cluster within {self._settings.replace_timeout_s:g} s"
        if left < fewest:
            raise PopulationLost(f"{cause}; a population of {left} is less than population.min_peers allows ({fewest})")
        self.dismiss(absent)
        for peer in absent:
            self._away_since.pop(peer, None)
            self._on_event(Event(round, peer, "left", cause))

    def dismiss(self, peers: Iterable[int]) -> None:
        """Let some peers take part no more."""
        gone = set(peers)
        self.peers = [peer for peer in self.peers if peer not in gone]
        self._group.dismiss(gone)
