"""The roster of a population: which peers take part, how often each was lost, and which are away."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from graftpop.errors import PeerError, PeerLost, PopulationLost
from graftpop.population.group import Group
from graftpop.rows import Event
from graftpop.settings import PopulationSettings

__all__ = ["Roster"]

SECONDS_BETWEEN_STARTS = 1.0


class Roster:
    """The peers that take part, and the restarts of each.

    Args:
        group: the peers.
        settings: `max_peer_restarts`, `replace_timeout_s` and `min_peers`.
        on_event: called with each event.

    Attributes:
        peers: the peers that take part, in ascending order.
        num_restarts: number of restarts by peer.
    """

    def __init__(self, group: Group, settings: PopulationSettings, on_event: Callable[[Event], None]) -> None:
        self.peers = list(range(settings.num_peers))
        self.num_restarts: Counter[int] = Counter()
        self._group, self._settings, self._on_event = group, settings, on_event
        self._away_since: dict[int, float] = {}
        self._away_until: dict[int, float] = {}

    def lose(self, peer: int, error: PeerError, round: int) -> None:
        """Record the loss of a peer and start its replacement timeout.

        Raises:
            PeerError: it was lost more than `max_peer_restarts` times.
        """
        now = time.monotonic()
        self._away_since.setdefault(peer, now)
        self._away_until[peer] = now + self._settings.replace_timeout_s
        self._on_event(Event(round, peer, "lost", str(error)))
        self.num_restarts[peer] += 1
        most = self._settings.max_peer_restarts
        if self.num_restarts[peer] > most:
            raise PeerError(f"{error} (already replaced {most} times, the limit of population.max_peer_restarts)")

    def is_away(self, peer: int) -> bool:
        """Return whether a peer is lost and not yet restored."""
        return peer in self._away_since

    def left_s(self, peer: int) -> float:
        """Return the seconds that a lost peer has left to find room and start; 0 or less after its timeout."""
        return self._away_until[peer] - time.monotonic()

    def start_anew(self, peers: Iterable[int]) -> list[int]:
        """Restart lost peers and wait until they answer; return those that timed out.

        If a peer's node is gone, the cluster looks for room on other nodes meanwhile.

        Raises:
            PeerError: a new process cannot be a peer, because data or user code is missing on its node.
        """
        absent = list(peers)
        while absent:
            self._group.restart(absent)
            left_s = max(0.0, min(map(self.left_s, absent)))
            answers = dict(self._group.run("process_id", dict.fromkeys(absent, ()), left_s))
            for answer in answers.values():
                if isinstance(answer, PeerError) and not isinstance(answer, PeerLost):
                    raise answer  # another restart would fail alike
            absent = sorted(self._group.coresident([peer for peer in absent if isinstance(answers[peer], PeerError)]))
            if not absent or min(map(self.left_s, absent)) <= SECONDS_BETWEEN_STARTS:
                break
            time.sleep(SECONDS_BETWEEN_STARTS)
        return absent

    def came_back(self, peer: int, round: int) -> None:
        """Record that a lost peer is back in its last state."""
        since = self._away_since.pop(peer)
        self._on_event(Event(round, peer, "replaced", "", time.monotonic() - since))

    def leave(self, absent: Collection[int], round: int) -> None:
        """Continue without peers that found no room.

        Raises:
            PopulationLost: fewer than `min_peers` remain.
        """
        left, fewest = len(self.peers) - len(absent), self._settings.min_peers or self._settings.num_peers
        who = f"peer{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}"
        cause = f"{who}: found no room on the cluster within {self._settings.replace_timeout_s:g} s"
        if left < fewest:
            raise PopulationLost(
                f"{cause}; {left} peers remain, population.min_peers needs {fewest}; resume when there is room"
            )
        self.dismiss(absent)
        for peer in absent:
            self._away_since.pop(peer, None)
            self._on_event(Event(round, peer, "left", cause))

    def dismiss(self, peers: Iterable[int]) -> None:
        """Remove some peers from the population for good."""
        gone = set(peers)
        self.peers = [peer for peer in self.peers if peer not in gone]
        self._group.dismiss(gone)
