"""Calls to peers that survive the loss of some of them.

A peer is what it was when the last round ended, and what was asked of it since: both are deterministic. So who is lost
is started anew, given its state of the last round, and asked the same again, until it is where the others are; what
it then holds is what was lost, to the bit.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graftpop.errors import HandleLost, MeetingBroken, PeerDiverged, PeerError, PeerLost, PopulationLost
from graftpop.population.deadlines import Deadlines
from graftpop.population.group import Calls, Group, Wanted
from graftpop.population.round import Event
from graftpop.settings import PopulationSettings

__all__ = ["Made", "PeersLeft", "Recovery"]

PING_LIMIT_S = 30.0


class PeersLeft(Exception):
    """Some peers left for good; what was begun with them has to begin again."""


@dataclass
class Phase:
    """A call to some peers, and what came of it so far."""

    method: str
    calls: Calls
    wanted: Wanted = "value"
    num_rounds: int = 1
    outcomes: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What a peer made in a phase; as an argument it stands for its handle, whichever that is by then."""

    phase: Phase
    peer: int

    @property
    def handle(self) -> Any:
        """The handle, as the group gave it."""
        return self.phase.outcomes[self.peer]


class Recovery:
    """The peers of a population as callers see them: all there.

    Args:
        group: the peers as they are.
        settings: how often, and how long, a lost peer is waited for.
        deadlines: how long the others are.
        together: whether peers meet within a call, so that who has lost one begins the round again too.
        tell: called with what happens.

    Attributes:
        peers: who takes part.
        round: that events are told with.
        num_restarts: by peer, how often it was started anew.
    """

    def __init__(self, group: Group, settings: PopulationSettings, deadlines: Deadlines, *, together: bool,
                 tell: Callable[[Event], None]) -> None:
        self.peers = list(range(settings.num_peers))
        self.round = 0
        self.num_restarts: Counter[int] = Counter()
        self._group, self._settings, self._deadlines = group, settings, deadlines
        self._together, self._tell = together, tell
        self._base: list[Phase] = []      # brings a new peer to where the last round ended
        self._journal: list[Phase] = []   # and these to where it is now
        self._away: dict[int, float] = {}

    def call(self, method: str, calls: Calls, *, wanted: Wanted = "value", num_rounds: int = 1) -> dict[int, Any]:
        """Return the results of all calls by peer, or what stands for their handles; see `Group.run`.

        Of a peer whose training diverged the result is the `PeerDiverged`.

        Args:
            num_rounds: how many rounds' time they may take.

        Raises:
            PeerError: a peer failed, or was lost more often than it may be.
            PeersLeft: some are gone for good; `rewind`, and begin again with those that are left.
            PopulationLost: too few are left.
        """
        phase = Phase(method, calls, wanted, num_rounds)
        self._journal.append(phase)
        self._catch_up()
        return {peer: phase.outcomes[peer] if wanted == "value" else Made(phase, peer) for peer in calls}

    def commit(self, base: Iterable[tuple[str, Calls]], *, done: bool = True) -> None:
        """Forget what was called so far: from here on a lost peer comes back by these calls.

        Args:
            base: methods and calls that bring a new peer to where it shall be.
            done: whether the peers are there already.
        """
        self._base = [Phase(method, {peer: _resolved(arguments) for peer, arguments in calls.items()},
                            outcomes=dict.fromkeys(calls) if done else {}) for method, calls in base]
        self._journal = []
        self._catch_up()

    def rewind(self) -> None:
        """Bring everyone to where the last round ended."""
        self._journal = []
        for phase in self._base:
            phase.outcomes.clear()
        if not self._base:
            self._group.restart(self.peers, self._settings.replace_limit_s)

    def dismiss(self, peers: Iterable[int]) -> None:
        """Go on without some peers."""
        gone = set(peers)
        self.peers = [peer for peer in self.peers if peer not in gone]
        self._group.dismiss(gone)

    def _catch_up(self) -> None:
        """Ask of every peer what it was not yet asked, in order."""
        phases = [*self._base, *self._journal]
        number = 0
        while number < len(phases):
            failures = self._run(phases[number])
            if failures:
                self._replace(self._who_is_lost(failures, phases[number]), phases)
            number = 0 if failures else number + 1
        for peer, since in self._away.items():
            self._tell(Event(self.round, peer, "replaced", "", time.monotonic() - since))
        self._away.clear()

    def _run(self, phase: Phase) -> dict[int, PeerError]:
        """Run a phase with those that have not been through it; return who could not, and why."""
        calls = {peer: _resolved(arguments) for peer, arguments in phase.calls.items()
                 if peer in self.peers and peer not in phase.outcomes}
        failures: dict[int, PeerError] = {}
        limit_s = phase.num_rounds * self._deadlines.limit_s
        for peer, outcome in self._group.run(phase.method, calls, limit_s, wanted=phase.wanted):
            if isinstance(outcome, PeerLost | HandleLost | MeetingBroken):
                failures[peer] = outcome
            elif isinstance(outcome, PeerError) and (self._together or not isinstance(outcome, PeerDiverged)):
                raise outcome
            else:
                phase.outcomes[peer] = outcome
        return failures

    def _who_is_lost(self, failures: Mapping[int, PeerError], phase: Phase) -> Mapping[int, PeerError]:
        """Return who has to be replaced that others failed, and why."""
        if lost := {peer: error for peer, error in failures.items() if isinstance(error, PeerLost)}:
            return lost
        if broken := {peer: error for peer, error in failures.items() if isinstance(error, MeetingBroken)}:
            return broken
        makers = {made.peer for peer in failures for made in phase.calls[peer] if isinstance(made, Made)}
        if not makers:
            raise PopulationLost(str(next(iter(failures.values()))))
        pings = dict(self._group.run("process_id", dict.fromkeys(makers, ()), PING_LIMIT_S))
        # of one that answers what it made is gone all the same, and it may no longer be what it made that of
        cause = next(iter(failures.values()))
        return {peer: pings[peer] for peer in makers if isinstance(pings[peer], PeerError)} or dict.fromkeys(
            makers, cause)

    def _replace(self, lost: Mapping[int, PeerError], phases: list[Phase]) -> None:
        """Start lost peers anew, and let them, and whoever has to begin again with them, have done nothing yet."""
        for peer, error in lost.items():
            self._away.setdefault(peer, time.monotonic())
            self._tell(Event(self.round, peer, "lost", str(error)))
            self.num_restarts[peer] += 1
            most = self._settings.max_peer_restarts
            if self.num_restarts[peer] > most:
                raise PeerError(f"{error} (replaced {most} times before, as many as population.max_peer_restarts "
                                f"allows)")
        for phase in phases:
            for peer in self.peers if self._together else lost:
                phase.outcomes.pop(peer, None)
        if absent := self._group.restart(list(lost), self._settings.replace_limit_s):
            self._go_on_without(absent)

    def _go_on_without(self, absent: list[int]) -> None:
        left = len(self.peers) - len(absent)
        fewest = self._settings.min_peers or self._settings.num_peers
        who = f"peer{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}"
        cause = f"{who}: found no room on the cluster within {self._settings.replace_limit_s:g} s"
        if left < fewest:
            raise PopulationLost(f"{cause}; a population of {left} is less than population.min_peers allows ({fewest})")
        self.dismiss(absent)
        for peer in absent:
            self._away.pop(peer, None)
            self._tell(Event(self.round, peer, "left", cause))
        raise PeersLeft


def _resolved(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(argument.handle if isinstance(argument, Made) else argument for argument in arguments)
