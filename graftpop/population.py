"""One population: rounds of training and exchange over a group of peers.

A group is peers somewhere: in this process (`LocalGroup`) or as Ray actors (`graftpop.cluster.actors`). The population
tells it which peers shall run which method and gets the results back as they complete; what peers hand to each other
(snapshots, class probabilities) it only passes on as handles. Every value a population computes with is a small number.
"""

import random
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graftpop.errors import PeerError
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import Settings

__all__ = ["Calls", "Group", "LocalGroup", "Population", "Round"]

Calls = Mapping[int, tuple[Any, ...]]
"""Peers and the arguments that each is called with; handles among them stand for what they hold."""

Row = dict[str, Any]


class Group(Protocol):
    """Peers that can be asked to run a method."""

    def run(self, method: str, calls: Calls, limit_s: float, *, hold: bool = False) -> Iterator[tuple[int, Any]]:
        """Start a method on some peers and yield each peer with its result as they complete.

        Args:
            method: name of a method of `graftpop.peer.Peer`.
            calls: who, with which arguments.
            limit_s: how long to wait for all of them.
            hold: yield an opaque handle of the result, which can be an argument of later calls, and leave the
                result where it is.

        Yields:
            The peer, and its result, its handle, or the `PeerError` by which it was lost.
        """
        ...


class LocalGroup:
    """Peers in this process, one after the other; where they meet, in step."""

    def __init__(self, peers: Sequence[object]) -> None:
        self._peers = peers

    def run(self, method: str, calls: Calls, limit_s: float, *, hold: bool = False) -> Iterator[tuple[int, Any]]:
        """See `Group.run`; there is nothing to wait for here, and a handle is the result itself."""
        del limit_s, hold
        meetings = {}
        for peer, arguments in calls.items():
            result = getattr(self._peers[peer], method)(*arguments)
            if isinstance(result, Generator):
                meetings[peer] = result
            else:
                yield peer, result
        yield from in_step(meetings)


def in_step(meetings: Mapping[int, Generator[NDArray[Any], NDArray[Any], Any]]) -> Iterator[tuple[int, Any]]:
    """Run methods that meet, each up to its next meeting, and send all what all had to say; yield their results."""
    said: dict[int, Any] = dict.fromkeys(sorted(meetings))
    everyone = None
    while said:
        for peer in list(said):
            try:
                said[peer] = meetings[peer].send(everyone)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as done:
                del said[peer]
                yield peer, done.value
        everyone = np.stack(list(said.values())) if said else None


@dataclass(frozen=True)
class Round:
    """What one round left: a row a peer, columns of the exchange with one value a receiver and site, and measures."""

    round: int
    is_last: bool
    peers: list[Row]
    grafts: dict[str, list[Any]] = field(default_factory=dict)
    measures: list[Row] = field(default_factory=list)

    @property
    def best_peer(self) -> int:
        """The peer with the highest validation accuracy, the first of equals."""
        return int(max(self.peers, key=lambda row: row["val_accuracy"])["peer"])

    @property
    def val_accuracy(self) -> float:
        """The population's validation accuracy: its best peer's."""
        return float(max(row["val_accuracy"] for row in self.peers))


class Population:
    """Peers that train side by side and exchange weights at the end of each round but the last.

    Args:
        group: the peers, as many as the settings say.
        settings: of this population.
        round: rounds already done, where the peers come from a checkpoint.
    """

    def __init__(self, group: Group, settings: Settings, *, round: int = 0) -> None:
        self._group = group
        self._settings = settings
        self.round = round

    def step(self) -> Round:
        """Train every peer for a round, then let each receive from its donors.

        Raises:
            PeerError: a peer was lost or did not answer in time.
        """
        settings = self._settings
        self._teach()
        per_round = settings.population.epochs_per_round
        num_epochs = min(per_round, settings.num_epochs - self.round * per_round)
        rows = self._all("train", dict.fromkeys(self._peers, (num_epochs,)))
        self.round += 1
        done = Round(self.round, self.round == settings.num_rounds, [rows[peer] for peer in self._peers])
        self._meet(done)
        for row in done.peers:
            row["round"] = self.round
        return done

    def _teach(self) -> None:
        """Before the first round train the teachers that need it; before the others hand the peers each other."""
        distillation, mutual = self._settings.distillation, self._settings.mutual
        if self.round == 0 and distillation is not None:
            wanted = [index for index, teacher in enumerate(distillation.teachers) if teacher.epochs]
            trainers: dict[int, tuple[int, ...]] = {
                peer: tuple(wanted[peer :: len(self._peers)]) for peer in self._peers[: len(wanted)]}
            if trainers:
                rounds = max(sum(distillation.teachers[index].epochs or 0 for index in indices)
                             for indices in trainers.values())
                trained = self._all("train_teachers", trainers, hold=True, num_rounds=rounds)
                self._all("take_teachers", dict.fromkeys(self._peers, tuple(trained.values())))
        if self.round > 0 and mutual is not None and mutual.exchange == "snapshots":
            snapshots = self._publish()
            self._all("learn_from", {peer: tuple(snapshots[other] for other in self._peers if other != peer)
                                     for peer in self._peers})

    def _meet(self, done: Round) -> None:
        """Compare the peers and let them graft, as the settings have it, and add to the round what came of it."""
        graft = self._settings.graft
        grafts = (graft is not None and graft.scion == "external" and not done.is_last
                  and done.round > graft.burn_in_rounds)
        compares = self._settings.measures.pairs and len(self._peers) > 1
        done.measures.extend({"peer": row["peer"], "other": None, "measure": measure, "value": value}
                             for row in done.peers for measure, value in row.pop("measures"))
        start = time.perf_counter()
        snapshots = self._publish() if grafts or compares else {}  # all are taken before any receiver changes
        if grafts:
            self._graft(done, snapshots)
        for row in done.peers:
            row["exchange_s"] = time.perf_counter() - start if grafts else 0.0
        if compares:
            pairs = self._all("compare", {peer: tuple(snapshots[other] for other in self._peers[peer:])
                                          for peer in self._peers[:-1]})
            done.measures.extend(row for peer in self._peers[:-1] for row in pairs[peer])
        for row in done.measures:
            row["round"] = done.round

    def _graft(self, done: Round, snapshots: Mapping[int, Any]) -> None:
        rng = random.Random(f"{self._settings.seed}/donors/{done.round}")
        topology = TOPOLOGIES[self._settings.population.topology]
        donors = topology(len(self._peers), done.best_peer, rng)
        calls = {receiver: tuple(snapshots[donor] for donor in donors[receiver])
                 for receiver in self._peers if donors[receiver]}
        by_receiver = self._all("graft", calls)
        for column in by_receiver[next(iter(calls))]:
            done.grafts[column] = [value for peer in calls for value in by_receiver[peer][column]]
        done.grafts["round"] = [done.round] * len(done.grafts["site"])

    def _publish(self) -> dict[int, Any]:
        return self._all("publish", dict.fromkeys(self._peers, ()), hold=True)

    def finish(self, done: Round) -> dict[str, Any]:
        """Make the population's output of its peers and read the test set, once.

        Args:
            done: the last round.

        Returns:
            `val_accuracy` and `test_accuracy` of the output, `ensemble_test_accuracy` of the mean softmax of all peers,
            and what the best peer's network costs.
        """
        best, output = done.best_peer, self._settings.population.output
        tested = self._all("predict", dict.fromkeys(self._peers, ("test",)), hold=True)
        of_all = self._one("ensemble_accuracy", best, *tested.values())
        if output in ("uniform_soup", "greedy_soup"):
            snapshots = self._publish()
            ranked = sorted(self._peers, key=lambda peer: -done.peers[peer]["val_accuracy"])
            self._one("cook", best, output, *(snapshots[peer] for peer in ranked))
            tested = self._all("predict", {best: ("test",)}, hold=True)
        givers = self._peers if output == "ensemble" else [best]
        val_accuracy = done.val_accuracy
        if output != "best_peer":  # which the round has measured
            validated = self._all("predict", dict.fromkeys(givers, ("val",)), hold=True)
            val_accuracy = self._one("ensemble_accuracy", best, *validated.values())
        return {
            "val_accuracy": val_accuracy,
            "test_accuracy": self._one("ensemble_accuracy", best, *(tested[peer] for peer in givers)),
            "ensemble_test_accuracy": of_all,
            **self._one("cost", best),
        }

    def save(self) -> Iterator[tuple[int, bytes]]:
        """Yield each peer with its whole state."""
        for peer in self._peers:  # one at a time: the states of all peers need not fit into one process
            yield peer, self._all("save", {peer: ()})[peer]

    def save_teachers(self) -> dict[int, bytes]:
        """Return the states of the teachers that were trained in this trial, by index."""
        if self._settings.distillation is None:
            return {}
        trained: dict[int, bytes] = self._one("trained_teachers", 0)
        return trained

    def load(self, states: Mapping[int, bytes], round: int, teachers: Mapping[int, bytes]) -> None:
        """Go on from the states that `save` and `save_teachers` gave after a round."""
        self._all("load", {peer: (states[peer],) for peer in self._peers})
        if teachers:
            self._all("take_teachers", dict.fromkeys(self._peers, (dict(teachers),)))
        self.round = round

    @property
    def _peers(self) -> range:
        return range(self._settings.population.num_peers)

    def _one(self, method: str, peer: int, *arguments: Any) -> Any:
        return self._all(method, {peer: arguments})[peer]

    def _all(self, method: str, calls: Calls, *, hold: bool = False, num_rounds: int = 1) -> dict[int, Any]:
        """Return the results of all calls by peer, in the order of the calls.

        Args:
            num_rounds: how many rounds' time they may take.

        Raises:
            PeerError: a peer was lost or did not answer in time.
        """
        results = {}
        limit_s = num_rounds * self._settings.population.round_limit_s
        for peer, result in self._group.run(method, calls, limit_s, hold=hold):
            if isinstance(result, PeerError):
                raise result
            results[peer] = result
        return {peer: results[peer] for peer in calls}
