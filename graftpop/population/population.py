"""Rounds of training and exchange over a group of peers.

The population calls methods of the group's peers. It computes with small numbers only; data that peers pass to each
other stays behind handles.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from graftpop.errors import PeerDiverged, PeerError
from graftpop.exchange.donors import donors_among, reseeding_donor
from graftpop.population.async_rounds import AsyncRounds
from graftpop.population.deadlines import Deadlines
from graftpop.population.group import Group
from graftpop.population.output import output_of
from graftpop.population.patience import is_settled
from graftpop.population.recovery import PeersLeft, Recovery, ResultRef
from graftpop.population.roster import Roster
from graftpop.population.round import Round
from graftpop.rows import Event, PeerRow
from graftpop.settings import Settings

__all__ = ["Population"]

T = TypeVar("T")


def ignore_event(event: Event) -> None:
    """Ignore an event."""
    del event


class Population:
    """Peers that train side by side and exchange weights at the end of each round but the last.

    Args:
        group: the peers, `population.num_peers` of them.
        settings: the population's settings.
        on_event: called with each event.

    Attributes:
        round: number of completed rounds.
    """

    def __init__(self, group: Group, settings: Settings, on_event: Callable[[Event], None] = ignore_event) -> None:
        self.round = 0
        self._group, self._settings, self._on_event = group, settings, on_event
        self._deadlines = Deadlines(settings.population)
        self._roster = Roster(group, settings.population, on_event)
        self._recovery = Recovery(group, self._roster, self._deadlines, together=settings.runs_in_lockstep)
        self._async_rounds: AsyncRounds | None = None
        self._states: dict[int, Any] = {}
        self._scores: list[float] = []  # of the completed rounds
        self._teachers: tuple[Any, ...] = ()

    @property
    def peers(self) -> list[int]:
        """The peers that take part, in ascending order."""
        return self._roster.peers

    @property
    def num_restarts(self) -> dict[int, int]:
        """Number of replacements by peer, for replaced peers."""
        return dict(self._roster.num_restarts)

    def step(self) -> Round:
        """Train every peer for a round, then exchange; return the round's results.

        Raises:
            PeerError: a peer failed, or was lost too often.
            PopulationLost: too few peers remain.
        """
        self._recovery.round = self.round + 1
        self.prepare()
        if self._settings.population.mode == "async":
            done = self._async_round()
        else:
            start = time.monotonic()
            done = self._restart_on_loss(self._round)
            self._deadlines.add(time.monotonic() - start)
            if self._settings.branches_after(done.round):
                self._restart_on_loss(self._load_states)
                self._deadlines.restart()
        self.round = done.round
        self._scores.append(done.score)
        if done.is_last and done.round < self._settings.num_rounds:
            patience = self._settings.training.patience
            self._on_event(Event(done.round, None, "ended_early", f"no better score in {patience} rounds"))
        return done

    def _restart_on_loss(self, act: Callable[[], T]) -> T:
        """Run `act`; restart it whenever peers leave."""
        while True:
            try:
                return act()
            except PeersLeft:
                self._recovery.rewind()

    def prepare(self) -> bool:
        """Before the first round, train the teachers that need it; return whether there are any."""
        if not self._states:
            self._restart_on_loss(self._prepare)
        return bool(self._teachers)

    def _prepare(self) -> None:
        distillation = self._settings.distillation
        teachers = distillation.teachers if distillation is not None else []
        to_train = [index for index, teacher in enumerate(teachers) if teacher.epochs]
        if to_train:
            peers = self.peers[:1] if self._settings.trains_alone(1) else self.peers
            trainers = {peer: tuple(to_train[place :: len(peers)]) for place, peer in enumerate(peers[: len(to_train)])}
            rounds = max(sum(teachers[index].epochs or 0 for index in indices) for indices in trainers.values())
            trained = self._recovery.call("train_teachers", trainers, result_mode="durable", num_rounds=rounds)
            self._call_all("set_teachers", *trained.values())
            self._teachers = tuple(result.handle for result in trained.values())
        self._commit()

    def _round(self) -> Round:
        settings, number = self._settings, self.round + 1
        mutual = settings.mutual
        if self.round > 0 and mutual is not None and mutual.exchange == "snapshots":
            snapshots = self._publish(self.peers)
            self._recovery.call(
                "set_snapshot_teachers",
                {peer: tuple(snapshots[other] for other in self.peers if other != peer) for peer in self.peers},
            )
        num_epochs = settings.epochs_of_round(number)
        training = self.peers[:1] if settings.trains_alone(number) else self.peers
        trained = self._recovery.call("train", dict.fromkeys(training, (num_epochs,)))
        rows: dict[int, PeerRow] = {peer: row for peer, row in trained.items() if not isinstance(row, PeerDiverged)}
        done = Round(number, number == settings.num_rounds, list(rows.values()), primary=settings.primary)
        may_end = not done.is_last and rows and len(rows) == len(trained)
        if may_end and is_settled([*self._scores, done.score], settings):
            ended = self._call_all("end")
            done = Round(number, True, list(ended.values()), primary=settings.primary)
        exchanges = settings.exchanges_after(number) and len(rows) > 1 and not done.is_last
        compares = settings.diagnostics.pairs and len(rows) > 1
        start = time.perf_counter()
        # all snapshots are taken before any receiver changes, and only of those whose weights are finite
        snapshots = self._publish(rows) if exchanges or compares or len(rows) < len(trained) else {}
        if exchanges:
            self._exchange(done, snapshots)
        exchange_s = time.perf_counter() - start if exchanges else 0.0
        if settings.exchanges_in_steps:
            done.add_exchanges(self._call_all("exchanged"))
        if compares:
            pairs = self._recovery.call(
                "compare",
                {
                    peer: tuple(snapshots[other] for other in list(rows)[place:])
                    for place, peer in enumerate(list(rows)[:-1])
                },
            )
            done.diagnostics.extend(row for found in pairs.values() for row in found)
        self._reseed(done, {peer: error for peer, error in trained.items() if peer not in rows}, snapshots, num_epochs)
        for row in done.peers:
            row["exchange_s"] = exchange_s
        done.complete()
        self._commit(training)
        return done

    def _load_states(self) -> None:
        """Load into every peer its state after the last round.

        This is no part of a round, because a loss would then repeat the round's training.
        """
        self._states = {peer: self._states[peer] for peer in self.peers}
        self._recovery.commit(self._base(), done=False)

    def _async_round(self) -> Round:
        number = self.round + 1
        if self._async_rounds is None:
            self._async_rounds = AsyncRounds(
                self._group,
                self._roster,
                self._deadlines,
                self._settings,
                self._states,
                self.round,
                self._teachers,
                self._on_event,
            )
        results = self._async_rounds.step(number)
        settings = self._settings
        rows = [result.row for result in results.values()]
        done = Round(number, number == settings.num_rounds, rows, primary=settings.primary)
        for peer, result in results.items():
            if result.exchanged is not None:
                done.add_exchanges({peer: result.exchanged}, {peer: result.staleness})
        done.complete()
        self._states = {peer: result.state for peer, result in results.items()}
        if done.is_last:
            self._recovery.commit(self._base())
        return done

    def _exchange(self, done: Round, snapshots: Mapping[int, ResultRef]) -> None:
        rng = random.Random(f"{self._settings.seed}/donors/{done.round}")
        donors = donors_among(list(snapshots), self._settings.topology, done.best_peer, rng)
        calls = {receiver: tuple(snapshots[donor] for donor in given) for receiver, given in donors.items()}
        done.add_exchanges(self._recovery.call("exchange", calls))

    def _reseed(
        self, done: Round, diverged: Mapping[int, PeerError], snapshots: Mapping[int, ResultRef], num_epochs: int
    ) -> None:
        """Give diverged peers their donors' weights, and add their rows to the round.

        Raises:
            PeerError: no peer has finite weights, or peers of this population cannot take another peer's weights.
        """
        topology = self._settings.topology
        for peer, error in diverged.items():
            if not self._settings.reseeds or not snapshots:
                raise error
            donor = reseeding_donor(peer, list(snapshots), topology, done.best_peer)
            row = self._recovery.call("reseed", {peer: (snapshots[donor], num_epochs)})[peer]
            done.peers.append(row)
            self._on_event(Event(done.round, peer, "reseeded", f"{error}; took the weights of peer {donor}"))
        done.peers.sort(key=lambda row: row["peer"])

    def _publish(self, peers: Iterable[int]) -> dict[int, ResultRef]:
        return self._recovery.call("publish", dict.fromkeys(peers, ()), result_mode="ref")

    def _call_all(self, method: str, *arguments: Any) -> dict[int, Any]:
        return self._recovery.call(method, dict.fromkeys(self.peers, arguments))

    def finish(self, done: Round) -> dict[str, Any]:
        """Turn the peers into the population's output, and evaluate it on the test set once.

        Args:
            done: the last round.

        Returns:
            `best_peer`; every metric of the task for the output on both splits (`val_accuracy`, `test_accuracy`) and
            for the combined predictions of all peers (`ensemble_test_accuracy`); the cost of the best peer's network
            and of the output.
        """
        return self._restart_on_loss(lambda: self._finish(done))

    def _finish(self, done: Round) -> dict[str, Any]:
        outcome = output_of(self._recovery, self._settings, self.peers, done)
        if self._settings.population.makes_soup:  # the best peer changed
            self._commit()
        return outcome

    def _commit(self, trained: Sequence[int] | None = None) -> None:
        """Save the peers' states; a lost peer restarts from here.

        Args:
            trained: the peers that trained, None for all; the first one's state is also that of the others, which do
                not load it yet.
        """
        saved = self._recovery.call("save", dict.fromkeys(trained or self.peers, ()), result_mode="durable")
        states = {peer: result.handle for peer, result in saved.items()}
        first = next(iter(states.values()))
        self._states = {peer: states.get(peer, first) for peer in self.peers}
        self._recovery.commit(self._base())

    def _base(self) -> list[tuple[str, dict[int, tuple[Any, ...]]]]:
        base = [("load", {peer: (state,) for peer, state in self._states.items()})]
        return base + ([("set_teachers", dict.fromkeys(self._states, self._teachers))] if self._teachers else [])

    def save(self) -> Iterator[tuple[int, bytes]]:
        """Yield each peer with its complete state after the last round, or before the first."""
        self.prepare()
        for peer, state in self._states.items():
            yield peer, self._group.get(state)

    def save_teachers(self) -> dict[int, bytes]:
        """Return the states of the teachers trained in this trial, by index."""
        return {index: state for handle in self._teachers for index, state in self._group.get(handle).items()}

    def files(self) -> Callable[[], Iterator[tuple[str, bytes]]]:
        """Return a function that yields name and content of each file of a checkpoint of the current state.

        The function can be called later, from another thread.
        """
        states = dict(self._states)

        def each() -> Iterator[tuple[str, bytes]]:
            for peer, state in states.items():  # one at a time: all states together may not fit in memory
                yield f"peer-{peer}.safetensors", self._group.get(state)
            for teacher, state in self.save_teachers().items():  # teachers never change
                yield f"teacher-{teacher}.safetensors", state

        return each

    def load(
        self,
        states: Mapping[int, bytes],
        round: int,
        teachers: Mapping[int, bytes],
        num_restarts: Mapping[int, int] = MappingProxyType({}),
        scores: Sequence[float] = (),
    ) -> None:
        """Resume from the states that `save` and `save_teachers` returned after a round.

        Args:
            states: state by peer; peers without a state have left for good.
            round: number of completed rounds.
            teachers: state by index of the teacher.
            num_restarts: number of replacements so far, by peer.
            scores: validation scores of the completed rounds, for `training.patience`.
        """
        self._recovery.round = self.round = round
        self._scores = list(scores)
        self._roster.num_restarts.update(num_restarts)
        self._roster.dismiss([peer for peer in self.peers if peer not in states])
        self._states = {peer: self._group.put(state) for peer, state in states.items()}
        self._teachers = (self._group.put(dict(teachers)),) if teachers else ()
        self._restart_on_loss(self._load_states)
