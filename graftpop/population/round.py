"""What a round leaves, and what happened in it that should not have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Event", "Round", "Row"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """Something that a population went on from.

    Attributes:
        round: in which it happened, from 1; 0 is before the first.
        peer: to whom; None: to all.
        event: `lost` (its process is gone, or it did not answer in time), `replaced` (it is back where it was), `left`
            (the others go on without it), `reseeded` (its loss was not finite, it has its donor's weights), and of the
            trial `checkpoint_skipped` (it was damaged, or ahead of who was to adopt it) and `storage_away` (nothing
            could be written for a while).
        cause: in one line.
        took_s: how long it took to go on, where that is known.
    """

    round: int
    peer: int | None
    event: Literal["lost", "replaced", "left", "reseeded", "checkpoint_skipped", "storage_away"]
    cause: str
    took_s: float | None = None


@dataclass(frozen=True)
class Round:
    """What one round left: a row a peer, columns of the exchange with one value a receiver and site, and measures."""

    round: int
    is_last: bool
    peers: list[Row]
    grafts: dict[str, list[Any]] = field(default_factory=dict)
    diagnostics: list[Row] = field(default_factory=list)

    def add_grafts(self, by_receiver: Iterable[Mapping[str, list[Any]]]) -> None:
        """Add the columns of what some receivers took, one receiver after the other."""
        for columns in by_receiver:
            for column, values in columns.items():
                self.grafts.setdefault(column, []).extend(values)

    def complete(self) -> None:
        """Write the round's number into all rows, and make rows of what each peer measured of itself."""
        self.diagnostics[:0] = [
            {"peer": row["peer"], "other": None, "diagnostic": measure, "value": value}
            for row in self.peers
            for measure, value in row.pop("diagnostics")
        ]
        for row in (*self.peers, *self.diagnostics):
            row["round"] = self.round
        if self.grafts:
            self.grafts["round"] = [self.round] * len(self.grafts["site"])

    @property
    def best_peer(self) -> int:
        """The peer with the highest validation accuracy, the first of equals."""
        return int(max(self.peers, key=lambda row: row["val_accuracy"])["peer"])

    @property
    def val_accuracy(self) -> float:
        """The population's validation accuracy: its best peer's."""
        return float(max(row["val_accuracy"] for row in self.peers))
