"""One population: rounds of training and exchange over a group of peers.

A group is peers somewhere: in this process (`LocalGroup`) or as Ray actors (`graftpop.cluster.actors`). The population
tells it which peers shall run which method and gets the results back as they complete; what peers hand to each other
(snapshots, class probabilities) it only passes on as handles. Every value a population computes with is a small number.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
    """Peers in this process, one after the other."""

    def __init__(self, peers: Sequence[object]) -> None:
        self._peers = peers

    def run(self, method: str, calls: Calls, limit_s: float, *, hold: bool = False) -> Iterator[tuple[int, Any]]:
        """See `Group.run`; there is nothing to wait for here, and a handle is the result itself."""
        del limit_s, hold
        for peer, arguments in calls.items():
            yield peer, getattr(self._peers[peer], method)(*arguments)


@dataclass(frozen=True)
class Round:
    """What one round left: a row a peer, and columns of the exchange with one value a receiver and site."""

    round: int
    is_last: bool
    peers: list[Row]
    grafts: dict[str, list[Any]] = field(default_factory=dict)

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
        """Train every peer for a round, then let each receive from its donor.

        Raises:
            PeerError: a peer was lost or did not answer in time.
        """
        settings = self._settings
        per_round = settings.population.epochs_per_round
        num_epochs = min(per_round, settings.training.epochs - self.round * per_round)
        rows = self._all("train", dict.fromkeys(self._peers, (num_epochs,)))
        self.round += 1
        is_last = self.round == settings.num_rounds
        start = time.perf_counter()
        grafts = {} if is_last or settings.graft is None else self._exchange()
        exchange_s = time.perf_counter() - start if grafts else 0.0
        peers = [{"round": self.round, **rows[peer], "exchange_s": exchange_s} for peer in self._peers]
        if grafts:
            grafts["round"] = [self.round] * len(grafts["site"])
        return Round(self.round, is_last, peers, grafts)

    def _exchange(self) -> dict[str, list[Any]]:
        """Graft every receiver; all snapshots are taken before any receiver changes."""
        snapshots = self._all("publish", dict.fromkeys(self._peers, ()), hold=True)
        donors = TOPOLOGIES[self._settings.population.topology](len(self._peers))
        by_receiver = self._all("graft", {receiver: (snapshots[donors[receiver]],) for receiver in self._peers})
        columns = by_receiver[0].keys()
        return {column: [value for peer in self._peers for value in by_receiver[peer][column]] for column in columns}

    def test(self, best_peer: int) -> tuple[float, float]:
        """Read the test set, once: return the accuracy of one peer, and of the mean softmax of all of them."""
        tests = self._all("test", dict.fromkeys(self._peers, ()), hold=True)
        of_best = self._all("ensemble_accuracy", {best_peer: (tests[best_peer],)})[best_peer]
        of_all = self._all("ensemble_accuracy", {best_peer: tuple(tests[peer] for peer in self._peers)})[best_peer]
        return of_best, of_all

    def save(self) -> Iterator[tuple[int, bytes]]:
        """Yield each peer with its whole state."""
        for peer in self._peers:  # one at a time: the states of all peers need not fit into one process
            yield peer, self._all("save", {peer: ()})[peer]

    def load(self, states: Mapping[int, bytes], round: int) -> None:
        """Go on from the states that `save` yielded after a round."""
        self._all("load", {peer: (states[peer],) for peer in self._peers})
        self.round = round

    @property
    def _peers(self) -> range:
        return range(self._settings.population.num_peers)

    def _all(self, method: str, calls: Calls, *, hold: bool = False) -> dict[int, Any]:
        results = {}
        for peer, result in self._group.run(method, calls, self._settings.population.round_limit_s, hold=hold):
            if isinstance(result, PeerError):
                raise result
            results[peer] = result
        return results
