"""Asynchronous rounds: each peer grafts its donor's newest snapshot and continues without waiting.

A peer more than `max_staleness` rounds ahead of the slowest waits before grafting. This bounds the age of grafted
snapshots and the results to keep. With `max_staleness: 0` the results equal those of synchronous rounds.

The newest snapshot depends on the speed of the peers, so a run cannot be repeated to the bit. A lost peer restarts from
the end of its last round while the others continue.
"""

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from graftpop.errors import PeerDiverged, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.exchange.donors import donors_among, reseeding_donor
from graftpop.population.deadlines import Deadlines
from graftpop.population.group import Group, ResultMode
from graftpop.population.roster import SECONDS_BETWEEN_STARTS, Roster
from graftpop.rows import Event, Exchanged, PeerRow
from graftpop.settings import Settings

__all__ = ["AsyncRounds", "PeerRound"]


class PeerCall(NamedTuple):
    """One call of a peer's method."""

    method: str
    arguments: tuple[Any, ...] = ()
    result_mode: ResultMode = "value"


WAIT = None
"""In place of a PeerCall: nothing to call until another peer makes progress."""

PeerProgram = Generator[PeerCall | None, Any, None]
"""The calls of one peer, one after the other; each result is sent in."""


class Published(NamedTuple):
    """A snapshot that other peers may graft."""

    round: int
    handle: Any
    merit: float


@dataclass(frozen=True)
class PeerRound:
    """One peer's results of one round: its row, the records of its exchange, and a handle of its state.

    `staleness` is the number of rounds by which its oldest donor was behind it.
    """

    row: PeerRow
    state: Any
    exchanged: Exchanged | None = None
    staleness: int = 0


class AsyncRounds:
    """The programs of all peers.

    Args:
        group: the peers.
        roster: the peers that take part.
        deadlines: timeouts of calls.
        settings: the population's settings.
        states: handle of each peer's state after the completed rounds, by peer; the peers already have it.
        round: number of completed rounds.
        teachers: handles of the teachers that a restarted peer gets.
        on_event: called with each event.
    """

    def __init__(  # the parts of the population that this mode replaces
        self,
        group: Group,
        roster: Roster,
        deadlines: Deadlines,
        settings: Settings,
        states: Mapping[int, Any],
        round: int,
        teachers: tuple[Any, ...],
        on_event: Callable[[Event], None],
    ) -> None:
        self._group, self._roster, self._deadlines, self._settings = group, roster, deadlines, settings
        self._states, self._teachers, self._on_event = dict(states), teachers, on_event
        self._done = dict.fromkeys(roster.peers, round)  # completed rounds by peer
        self._trained = dict.fromkeys(roster.peers, round)  # trained rounds by peer
        self._slowest: int | None = None  # trained rounds of the slowest peer; None to be computed
        self._newest: dict[int, Published] = {}
        self._results: dict[
            int, dict[int, PeerRound]
        ] = {}  # results by round and peer, until all peers have completed it
        self._donors = lru_cache(maxsize=8)(self._donors_after)  # every receiver of a round asks for all donors
        self._programs = {peer: self._program(peer) for peer in roster.peers}
        self._waiting = set(roster.peers)
        self._has_progress = True  # since the waiting peers were last advanced; most results let none of them continue
        self._running: dict[int, PeerCall] = {}
        self._starting: set[int] = set()
        self._diverged: dict[int, PeerDiverged] = {}  # diverged peers that wait for a donor

    def step(self, number: int) -> dict[int, PeerRound]:
        """Advance all peers until each has completed a round; return its results by peer.

        Raises:
            PeerError: a peer failed, or was lost too often.
            PopulationLost: too few peers remain.
        """
        while any(self._done[peer] < number for peer in self._roster.peers):
            if self._has_progress:
                self._has_progress = False
                waiting, self._waiting = self._waiting, set()
                for peer in sorted(waiting):
                    self._advance(peer, None)
            if not self._running:
                self._restart_blocking()
            peer, outcome = self._group.next_result()
            self._handle_outcome(peer, self._running.pop(peer), outcome)
        results = self._results.pop(number)
        return {peer: results[peer] for peer in self._roster.peers}

    def _handle_outcome(self, peer: int, call: PeerCall, outcome: Any) -> None:
        """Advance a peer with the outcome of its call, or replace it if it is lost."""
        if isinstance(outcome, PeerLost):
            self._replace(peer, outcome)
        elif isinstance(outcome, ResultLost) and call.method not in ("exchange", "reseed"):
            raise PopulationLost(str(outcome))
        elif isinstance(outcome, PeerError) and not isinstance(outcome, ResultLost | PeerDiverged):
            raise outcome
        else:
            self._advance(peer, outcome)

    def _advance(self, peer: int, result: Any) -> None:
        """Send a result to a peer's program and start the call that it yields, if any."""
        try:
            call = self._programs[peer].send(result)
        except StopIteration:
            return
        if call is WAIT:
            self._waiting.add(peer)
            return
        timeout_s = self._roster.left_s(peer) if peer in self._starting else self._deadlines.timeout_s
        self._group.start(peer, call.method, call.arguments, timeout_s, result_mode=call.result_mode)
        self._running[peer] = call

    # --- programs ---

    def _program(self, peer: int) -> PeerProgram:
        while self._done[peer] < self._settings.num_rounds:
            yield from self._round(peer, self._done[peer] + 1)

    def _program_after_restart(self, peer: int) -> PeerProgram:
        """Restore a lost peer's last state, then run its program."""
        yield PeerCall("process_id")
        self._starting.discard(peer)
        yield PeerCall("load", (self._states[peer],))
        if self._teachers:
            yield PeerCall("set_teachers", self._teachers)
        self._roster.came_back(peer, self._done[peer] + 1)
        newest = self._newest.get(peer)
        if newest is not None and newest.handle is None:
            yield from self._publish(peer, self._done[peer], newest.merit)
        yield from self._program(peer)

    def _round(self, peer: int, number: int) -> PeerProgram:
        settings = self._settings
        num_epochs, is_last = settings.epochs_of_round(number), number == settings.num_rounds
        start = time.monotonic()
        row = yield PeerCall("train", (num_epochs,))
        self._deadlines.add(time.monotonic() - start)
        start = time.monotonic()
        if has_diverged := isinstance(row, PeerDiverged):
            row = yield from self._reseed(peer, number, row, num_epochs)
        # in the last round only for a diverged peer, which may find no earlier snapshot
        if settings.exchanges and (not is_last or peer not in self._newest):
            yield from self._publish(peer, number, self._settings.primary.merit_of(row))
        if self._trained[peer] == self._slowest:
            self._slowest, self._has_progress = None, True
        self._trained[peer] = number
        while not is_last and self._is_ahead(number):
            yield WAIT
        exchanged, staleness = None, 0
        if settings.exchanges_after(number) and not has_diverged:
            exchanged, staleness = yield from self._exchange(peer, number)
        row["exchange_s"] = time.monotonic() - start if exchanged is not None else 0.0
        self._states[peer] = yield PeerCall("save", (), "durable")
        self._done[peer] = number
        self._results.setdefault(number, {})[peer] = PeerRound(row, self._states[peer], exchanged, staleness)

    def _is_ahead(self, number: int) -> bool:
        """Return whether a peer after this round is more than `max_staleness` rounds ahead of the slowest."""
        if self._slowest is None:
            self._slowest = min(self._trained[peer] for peer in self._roster.peers)
        return number - self._slowest > self._settings.population.max_staleness

    def _publish(self, peer: int, number: int, merit: float) -> PeerProgram:
        handle = yield PeerCall("publish", (), "ref")
        self._newest[peer] = Published(number, handle, merit)
        self._has_progress = True

    def _exchange(self, peer: int, number: int) -> Generator[PeerCall | None, Any, tuple[Exchanged | None, int]]:
        """Let a peer exchange with its donors' newest snapshots; return the records and the staleness."""
        while True:
            best = self._roster.peers[0]  # ignored by topologies other than `best`
            if self._settings.topology == "best":
                best = self._best_of(other for other in self._roster.peers if other in self._newest)
            donors = self._donors(number, best, len(self._roster.peers))
            if peer not in donors:
                return None, 0
            oldest = number - self._settings.population.max_staleness
            taken = yield from self._call_with_snapshots(donors[peer], oldest, "exchange")
            if taken is not None:
                exchanged, round = taken
                return exchanged, number - round

    def _donors_after(self, number: int, best: int, num_peers: int) -> Mapping[int, tuple[int, ...]]:
        """Return the donors of each receiver after a round; as peers only leave, their number identifies them."""
        del num_peers
        rng = random.Random(f"{self._settings.seed}/donors/{number}")
        return donors_among(self._roster.peers, self._settings.topology, best, rng)

    def _reseed(
        self, peer: int, number: int, error: PeerDiverged, num_epochs: int
    ) -> Generator[PeerCall | None, Any, PeerRow]:
        """Give a diverged peer its donor's newest weights; return its row."""
        if not self._settings.reseeds or len(self._roster.peers) == 1:
            raise error
        self._diverged[peer] = error
        while True:
            others = [other for other in self._roster.peers if other != peer and other in self._newest]
            if not others:
                yield WAIT
                continue
            donor = reseeding_donor(peer, others, self._settings.topology, self._best_of(others))
            taken = yield from self._call_with_snapshots((donor,), 0, "reseed", num_epochs)
            if taken is not None:
                del self._diverged[peer]
                self._on_event(Event(number, peer, "reseeded", f"{error}; took the weights of peer {donor}"))
                row: PeerRow = taken[0]
                return row

    def _call_with_snapshots(
        self, donors: tuple[int, ...], oldest: int, method: str, *arguments: Any
    ) -> Generator[PeerCall | None, Any, tuple[Any, int] | None]:
        """Call a peer's method with its donors' newest snapshots, none older than round `oldest`.

        Returns:
            The result and the round of the oldest snapshot; None if a snapshot is missing.
        """
        newest = [self._newest.get(donor) for donor in donors]
        there = [
            published
            for published in newest
            if published is not None and published.handle is not None and published.round >= oldest
        ]
        if len(there) < len(donors):
            yield WAIT
            return None
        result = yield PeerCall(method, (*(published.handle for published in there), *arguments))
        if isinstance(result, ResultLost):  # its node is gone; the donor is lost too, or publishes again soon
            for donor, published in zip(donors, there, strict=True):
                if self._newest.get(donor) is published:
                    self._newest[donor] = published._replace(handle=None)
            return None
        return result, min(published.round for published in there)

    def _best_of(self, peers: Iterable[int]) -> int:
        """Return the peer with the best validation score at its last publication."""
        return max(peers, key=lambda peer: self._newest[peer].merit)

    # --- losses ---

    def _restart_blocking(self) -> None:
        """Restart peers whose snapshots are gone; all peers are done or wait for such a snapshot.

        Raises:
            PeerDiverged: a diverged peer waits for weights, and no peer has any.
        """
        gone = [peer for peer, newest in self._newest.items() if newest.handle is None]
        if not gone:
            raise next(iter(self._diverged.values()))
        self._waiting.difference_update(gone)
        for peer in gone:
            self._replace(peer, PeerLost(f"peer {peer}: its snapshot is gone with the node that held it"))

    def _replace(self, peer: int, error: PeerLost) -> None:
        """Restart a lost peer within its limits, or remove it; the others continue."""
        number = self._done[peer] + 1
        self._diverged.pop(peer, None)
        if peer not in self._starting:
            self._roster.lose(peer, error, number)
        elif self._roster.left_s(peer) > SECONDS_BETWEEN_STARTS:
            time.sleep(SECONDS_BETWEEN_STARTS)
        else:
            self._roster.leave([peer], number)
            self._newest.pop(peer, None)
            self._slowest, self._has_progress = None, True
            return
        self._starting.add(peer)
        self._group.restart([peer])
        self._programs[peer] = self._program_after_restart(peer)
        self._advance(peer, None)
