"""Calls to peers that survive the loss of some of them.

A peer's state is a deterministic function of its state after the last round and of the calls since then. A lost peer
restarts, loads its last state and replays the journal of these calls. Then it has the same bits as before its loss.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graftpop.errors import CollectiveError, PeerDiverged, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.population.deadlines import Deadlines
from graftpop.population.group import Calls, Group, ResultMode
from graftpop.population.roster import Roster

__all__ = ["ResultRef", "PeersLeft", "Recovery"]

PING_TIMEOUT_S = 30.0


class PeersLeft(Exception):
    """Some peers left for good; restart the round with the others."""


@dataclass
class Phase:
    """One entry of the journal: a call to some peers, and the outcomes so far, by peer."""

    method: str
    calls: Calls
    result_mode: ResultMode = "value"
    num_rounds: int = 1
    outcomes: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRef:
    """A reference to one peer's result of a phase; a replayed call replaces the handle behind it."""

    phase: Phase
    peer: int

    @property
    def handle(self) -> Any:
        """The group's current handle of the result."""
        return self.phase.outcomes[self.peer]


class Recovery:
    """A group of peers without visible losses: lost peers are replaced within a call.

    Args:
        group: the peers.
        roster: the peers that take part.
        deadlines: timeouts of calls.
        together: whether peers use collectives within a call, so that all restart the round when one is lost.

    Attributes:
        round: number of the round that events are recorded with.
    """

    def __init__(self, group: Group, roster: Roster, deadlines: Deadlines, *, together: bool) -> None:
        self.round = 0
        self._group, self._roster, self._deadlines, self._together = group, roster, deadlines, together
        self._base: list[Phase] = []  # restores a new peer's state after the last round
        self._journal: list[Phase] = []  # the calls since then

    def call(
        self, method: str, calls: Calls, *, result_mode: ResultMode = "value", num_rounds: int = 1
    ) -> dict[int, Any]:
        """Run a call and return the results by peer: values, or references to handles; see `Group.run`.

        The result of a diverged peer is its `PeerDiverged`.

        Args:
            method: name of a method of a peer.
            calls: arguments by peer.
            result_mode: kind of result.
            num_rounds: length of the call in rounds, a factor of the timeout.

        Raises:
            PeerError: a peer failed, or was lost too often.
            PeersLeft: some peers are gone for good; `rewind` and restart the round with the others.
            PopulationLost: too few peers remain.
        """
        phase = Phase(method, calls, result_mode, num_rounds)
        self._journal.append(phase)
        self._catch_up()
        return {peer: phase.outcomes[peer] if result_mode == "value" else ResultRef(phase, peer) for peer in calls}

    def commit(self, base: Iterable[tuple[str, Calls]], *, done: bool = True) -> None:
        """Replace the journal: from now on a lost peer restores its state by these calls.

        Args:
            base: methods and calls that bring a new peer to its state of this moment.
            done: whether the peers already have that state.
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
        """Return all peers to their state after the last round."""
        self._journal = []
        for phase in self._base:
            phase.outcomes.clear()
        if not self._base:
            self._group.restart(self._roster.peers)

    def _catch_up(self) -> None:
        """Run every phase on the peers that have not done it, in order, until no peer is missing."""
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
        """Run a phase on the peers that have not done it; return the failures by peer."""
        present = set(self._roster.peers)
        calls = {
            peer: _resolved(arguments)
            for peer, arguments in phase.calls.items()
            if peer in present and peer not in phase.outcomes
        }
        failures: dict[int, PeerError] = {}
        timeout_s = phase.num_rounds * self._deadlines.timeout_s
        for peer, outcome in self._group.run(phase.method, calls, timeout_s, result_mode=phase.result_mode):
            if isinstance(outcome, PeerLost | ResultLost | CollectiveError):
                failures[peer] = outcome
            elif isinstance(outcome, PeerError) and (self._together or not isinstance(outcome, PeerDiverged)):
                raise outcome
            else:
                phase.outcomes[peer] = outcome
        return failures

    def _peers_to_replace(self, failures: Mapping[int, PeerError], phase: Phase) -> Mapping[int, PeerError]:
        """Return the peers to replace, with their errors.

        A peer may fail because another one is lost: the sender in a collective, or the owner of an argument.
        """
        if lost := {peer: error for peer, error in failures.items() if isinstance(error, PeerLost)}:
            return lost
        if broken := {peer: error for peer, error in failures.items() if isinstance(error, CollectiveError)}:
            return broken
        owners = {
            argument.peer for peer in failures for argument in phase.calls[peer] if isinstance(argument, ResultRef)
        }
        if not owners:
            raise PopulationLost(str(next(iter(failures.values()))))
        pings = dict(self._group.run("process_id", dict.fromkeys(owners, ()), PING_TIMEOUT_S))
        # an owner that answers has lost the result too, and may since have changed the state it was made from
        cause = next(iter(failures.values()))
        return {peer: pings[peer] for peer in owners if isinstance(pings[peer], PeerError)} or dict.fromkeys(
            owners, cause
        )

    def _replace(self, lost: Mapping[int, PeerError], phases: list[Phase]) -> None:
        """Restart lost peers, and clear the outcomes of all peers that must repeat the phases with them."""
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
