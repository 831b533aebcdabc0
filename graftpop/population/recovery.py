"""Calls to peers that survive the loss of some of them.

A peer is what it was when the last round ended, and what was asked of it since: both are deterministic. So who is lost
is started anew, given its state of the last round, and asked the same again, until it is where the others are; what
it then holds is what was lost, to the bit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graftpop.errors import CollectiveError, PeerDiverged, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.population.deadlines import Deadlines
from graftpop.population.group import Calls, Group, ResultMode
from graftpop.population.roster import Roster

__all__ = ["ResultRef", "PeersLeft", "Recovery"]

PING_LIMIT_S = 30.0


class PeersLeft(Exception):
    """Some peers left for good; what was begun with them has to begin again."""


@dataclass
class Phase:
    """A call to some peers, and what came of it so far."""

    method: str
    calls: Calls
    wanted: ResultMode = "value"
    num_rounds: int = 1
    outcomes: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRef:
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
        roster: who takes part.
        deadlines: how long the others are waited for.
        together: whether peers meet within a call, so that who has lost one begins the round again too.

    Attributes:
        round: that events are told with.
    """

    def __init__(self, group: Group, roster: Roster, deadlines: Deadlines, *, together: bool) -> None:
        self.round = 0
        self._group, self._roster, self._deadlines, self._together = group, roster, deadlines, together
        self._base: list[Phase] = []  # brings a new peer to where the last round ended
        self._journal: list[Phase] = []  # and these to where it is now

    def call(self, method: str, calls: Calls, *, wanted: ResultMode = "value", num_rounds: int = 1) -> dict[int, Any]:
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
        return {peer: phase.outcomes[peer] if wanted == "value" else ResultRef(phase, peer) for peer in calls}

    def commit(self, base: Iterable[tuple[str, Calls]], *, done: bool = True) -> None:
        """Forget what was called so far: from here on a lost peer comes back by these calls.

        Args:
            base: methods and calls that bring a new peer to where it shall be.
            done: whether the peers are there already.
        """
        self._base = [
            Phase(
                method,
                {peer: _resolved(arguments) for peer, arguments in calls.items()},
                outcomes=dict.fromkeys(calls) if done else {},
            )
            for method, calls in base
        ]
        self._journal = []
        self._catch_up()

    def rewind(self) -> None:
        """Bring everyone to where the last round ended."""
        self._journal = []
        for phase in self._base:
            phase.outcomes.clear()
        if not self._base:
            self._group.restart(self._roster.peers)

    def _catch_up(self) -> None:
        """Ask of every peer what it was not yet asked, in order."""
        phases = [*self._base, *self._journal]
        number = 0
        while number < len(phases):
            failures = self._run(phases[number])
            if failures:
                self._replace(self._peers_to_replace(failures, phases[number]), phases)
            number = 0 if failures else number + 1
        for peer in filter(self._roster.is_away, self._roster.peers):
            self._roster.came_back(peer, self.round)

    def _run(self, phase: Phase) -> dict[int, PeerError]:
        """Run a phase with those that have not been through it; return who could not, and why."""
        calls = {
            peer: _resolved(arguments)
            for peer, arguments in phase.calls.items()
            if peer in self._roster.peers and peer not in phase.outcomes
        }
        failures: dict[int, PeerError] = {}
        timeout_s = phase.num_rounds * self._deadlines.timeout_s
        for peer, outcome in self._group.run(phase.method, calls, timeout_s, wanted=phase.wanted):
            if isinstance(outcome, PeerLost | ResultLost | CollectiveError):
                failures[peer] = outcome
            elif isinstance(outcome, PeerError) and (self._together or not isinstance(outcome, PeerDiverged)):
                raise outcome
            else:
                phase.outcomes[peer] = outcome
        return failures

    def _peers_to_replace(self, failures: Mapping[int, PeerError], phase: Phase) -> Mapping[int, PeerError]:
        """Return who has to be replaced that others failed, and why."""
        if lost := {peer: error for peer, error in failures.items() if isinstance(error, PeerLost)}:
            return lost
        if broken := {peer: error for peer, error in failures.items() if isinstance(error, CollectiveError)}:
            return broken
        makers = {made.peer for peer in failures for made in phase.calls[peer] if isinstance(made, ResultRef)}
        if not makers:
            raise PopulationLost(str(next(iter(failures.values()))))
        pings = dict(self._group.run("process_id", dict.fromkeys(makers, ()), PING_LIMIT_S))
        # of one that answers what it made is gone all the same, and it may no longer be what it made that of
        cause = next(iter(failures.values()))
        return {peer: pings[peer] for peer in makers if isinstance(pings[peer], PeerError)} or dict.fromkeys(
            makers, cause
        )

    def _replace(self, lost: Mapping[int, PeerError], phases: list[Phase]) -> None:
        """Start lost peers anew, and let them, and whoever has to begin again with them, have done nothing yet."""
        gone = {
            peer: lost.get(peer) or PeerLost(f"peer {peer}: lost with another peer of its process")
            for peer in sorted(self._group.coresident(lost))
        }
        for peer, error in gone.items():
            self._roster.lose(peer, error, self.round)
        for phase in phases:
            for peer in self._roster.peers if self._together else gone:
                phase.outcomes.pop(peer, None)
        if absent := self._roster.start_anew(gone):
            self._roster.leave(absent, self.round)
            raise PeersLeft


def _resolved(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(argument.handle if isinstance(argument, ResultRef) else argument for argument in arguments)
