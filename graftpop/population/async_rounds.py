"""Rounds of peers that do not wait for each other: each grafts its donor's newest snapshot, and goes on.

Of two peers that take part none is more than `max_staleness` rounds ahead when it grafts: who is waits for the other,
whether it takes weights from it or not. So the age of what is grafted is bounded, and so is what has to be kept. With
a `max_staleness` of 0 all comes out as if they waited for each other.

Who was newest depends on how fast peers were: unlike a population whose peers wait, this one is not repeated to the
bit. A peer that is lost comes back as it was at the end of its last round, while the others go on.
"""

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from graftpop.errors import PeerDiverged, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.population.deadlines import Deadlines
from graftpop.population.donors import donors_among, reseeding_donor
from graftpop.population.group import Group, ResultMode
from graftpop.population.roster import SECONDS_BETWEEN_STARTS, Roster
from graftpop.population.round import Event, Row
from graftpop.settings import Settings

__all__ = ["AsyncRounds", "PeerRound"]


class PeerCall(NamedTuple):
    """What a peer is asked for."""

    method: str
    arguments: tuple[Any, ...] = ()
    wanted: ResultMode = "value"


WAIT = None
"""In place of an Ask: nothing, until another peer has come further."""

PeerProgram = Generator[PeerCall | None, Any, None]
"""What is asked of one peer, one after the other; each answer is sent in."""


class Published(NamedTuple):
    """A snapshot that others may take."""

    round: int
    handle: Any
    val_accuracy: float


@dataclass(frozen=True)
class PeerRound:
    """What one peer left of one round: its row, the columns of its exchange, and a handle of its state."""

    row: Row
    grafts: Mapping[str, list[Any]]
    state: Any


class AsyncRounds:
    """Peers on their courses through all rounds.

    Args:
        group: the peers.
        roster: who takes part.
        deadlines: how long what they are asked for may take.
        settings: of the population.
        states: a handle of each peer's state after the rounds that are done; the peers hold it already.
        round: how many those are.
        teachers: what new peers have to be taught with.
        on_event: called with what happens besides.
    """

    def __init__(
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
        self._done = dict.fromkeys(roster.peers, round)  # rounds, by peer
        self._trained = dict.fromkeys(roster.peers, round)  # rounds of which others may have the snapshot
        self._newest: dict[int, Published] = {}
        self._left: dict[int, dict[int, PeerRound]] = {}  # by round and peer, until all have done it
        self._programs = {peer: self._program(peer) for peer in roster.peers}
        self._waiting = set(roster.peers)
        self._asked: dict[int, PeerCall] = {}
        self._starting: set[int] = set()
        self._diverged: dict[int, PeerDiverged] = {}  # who has nobody yet to take weights from

    def step(self, number: int) -> dict[int, PeerRound]:
        """Let all peers go on until each has done a round; return what it left, by peer.

        Raises:
            PeerError: a peer failed, or was lost more often than it may be.
            PopulationLost: too few peers are left.
        """
        while any(self._done[peer] < number for peer in self._roster.peers):
            waiting, self._waiting = self._waiting, set()
            for peer in sorted(waiting):
                self._go_on(peer, None)
            if not self._asked:
                self._unblock()
            peer, outcome = self._group.next_result()
            self._take(peer, self._asked.pop(peer), outcome)
        left = self._left.pop(number)
        return {peer: left[peer] for peer in self._roster.peers}

    def _take(self, peer: int, ask: PeerCall, outcome: Any) -> None:
        """Go on with what came of what a peer was asked for."""
        if isinstance(outcome, PeerLost):
            self._replace(peer, outcome)
        elif isinstance(outcome, ResultLost) and ask.method not in ("graft", "reseed"):
            raise PopulationLost(str(outcome))
        elif isinstance(outcome, PeerError) and not isinstance(outcome, ResultLost | PeerDiverged):
            raise outcome
        else:
            self._go_on(peer, outcome)

    def _go_on(self, peer: int, answer: Any) -> None:
        """Send a peer's course an answer, and ask for what it asks for then, if for anything."""
        try:
            ask = self._programs[peer].send(answer)
        except StopIteration:
            return
        if ask is WAIT:
            self._waiting.add(peer)
            return
        timeout_s = self._roster.left_s(peer) if peer in self._starting else self._deadlines.timeout_s
        self._group.start(peer, ask.method, ask.arguments, timeout_s, wanted=ask.wanted)
        self._asked[peer] = ask

    # --- courses ---

    def _program(self, peer: int) -> PeerProgram:
        while self._done[peer] < self._settings.num_rounds:
            yield from self._round(peer, self._done[peer] + 1)

    def _program_after_restart(self, peer: int) -> PeerProgram:
        """The course of a peer that was lost: first to where its last round ended."""
        yield PeerCall("process_id")
        self._starting.discard(peer)
        yield PeerCall("load", (self._states[peer],))
        if self._teachers:
            yield PeerCall("set_teachers", self._teachers)
        self._roster.came_back(peer, self._done[peer] + 1)
        newest = self._newest.get(peer)
        if newest is not None and newest.handle is None:
            yield from self._publish(peer, self._done[peer], newest.val_accuracy)
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
        if settings.exchanges and not is_last:
            yield from self._publish(peer, number, row["val_accuracy"])
        self._trained[peer] = number
        while not is_last and self._is_ahead(number):
            yield WAIT
        grafts: Mapping[str, list[Any]] = {}
        if settings.exchanges_after(number) and not has_diverged:
            grafts = yield from self._graft(peer, number)
        row["exchange_s"] = time.monotonic() - start if grafts else 0.0
        self._states[peer] = yield PeerCall("save", (), "durable")
        self._done[peer] = number
        self._left.setdefault(number, {})[peer] = PeerRound(row, grafts, self._states[peer])

    def _is_ahead(self, number: int) -> bool:
        """Return whether after a round somebody is too far behind."""
        slowest = min(self._trained[peer] for peer in self._roster.peers)
        return number - slowest > self._settings.population.max_staleness

    def _publish(self, peer: int, number: int, val_accuracy: float) -> PeerProgram:
        handle = yield PeerCall("publish", (), "ref")
        self._newest[peer] = Published(number, handle, val_accuracy)

    def _graft(self, peer: int, number: int) -> Generator[PeerCall | None, Any, Mapping[str, list[Any]]]:
        """Graft a peer with what its donors published last; return the columns of the record."""
        while True:
            rng = random.Random(f"{self._settings.seed}/donors/{number}")
            best = self._best_of(other for other in self._roster.peers if other in self._newest)
            donors = donors_among(self._roster.peers, self._settings.population.topology, best, rng)
            if peer not in donors:
                return {}
            oldest = number - self._settings.population.max_staleness
            taken = yield from self._take_from(donors[peer], oldest, "graft")
            if taken is not None:
                columns, round = taken
                return {**columns, "staleness": [number - round] * len(columns["site"])}

    def _reseed(
        self, peer: int, number: int, error: PeerDiverged, num_epochs: int
    ) -> Generator[PeerCall | None, Any, Row]:
        """Give a peer that diverged the weights that its donor published last; return its row."""
        if not self._settings.exchanges or len(self._roster.peers) == 1:
            raise error
        self._diverged[peer] = error
        while True:
            others = [other for other in self._roster.peers if other != peer and other in self._newest]
            if not others:
                yield WAIT
                continue
            donor = reseeding_donor(peer, others, self._settings.population.topology, self._best_of(others))
            taken = yield from self._take_from((donor,), 0, "reseed", num_epochs)
            if taken is not None:
                del self._diverged[peer]
                self._on_event(Event(number, peer, "reseeded", f"{error}; has the weights of peer {donor}"))
                row: Row = taken[0]
                return row

    def _take_from(
        self, donors: tuple[int, ...], oldest: int, method: str, *arguments: Any
    ) -> Generator[PeerCall | None, Any, tuple[Any, int] | None]:
        """Ask a peer to do something with its donors' newest snapshots, of this round or a later one.

        Returns:
            Its answer, and after which round the oldest of them was made; None where they were not there.
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
        answer = yield PeerCall(method, (*(published.handle for published in there), *arguments))
        if isinstance(answer, ResultLost):  # with a node; who was on it is lost too, or publishes again soon
            for donor, published in zip(donors, there, strict=True):
                if self._newest.get(donor) is published:
                    self._newest[donor] = published._replace(handle=None)
            return None
        return answer, min(published.round for published in there)

    def _best_of(self, peers: Iterable[int]) -> int:
        """Return the best of some peers that have published, by what they had reached then."""
        return max(peers, key=lambda peer: self._newest[peer].val_accuracy)

    # --- losses ---

    def _unblock(self) -> None:
        """Let peers whose snapshots are gone publish again, now that all are done or wait, by starting them anew.

        Raises:
            PeerDiverged: it is weights that are waited for, and there are none.
        """
        gone = [peer for peer, newest in self._newest.items() if newest.handle is None]
        if not gone:
            raise next(iter(self._diverged.values()))
        self._waiting.difference_update(gone)
        for peer in gone:
            self._replace(peer, PeerLost(f"peer {peer}: its snapshot is gone with the node that held it"))

    def _replace(self, peer: int, error: PeerLost) -> None:
        """Start a lost peer anew, if it may be; the others go on."""
        number = self._done[peer] + 1
        self._diverged.pop(peer, None)
        if peer not in self._starting:
            self._roster.lose(peer, error, number)
        elif self._roster.left_s(peer) > SECONDS_BETWEEN_STARTS:
            time.sleep(SECONDS_BETWEEN_STARTS)
        else:
            self._roster.leave([peer], number)
            self._newest.pop(peer, None)
            return
        self._starting.add(peer)
        self._group.restart([peer])
        self._programs[peer] = self._program_after_restart(peer)
        self._go_on(peer, None)
