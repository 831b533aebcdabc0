"""The results of one round."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graftpop.metrics import ACCURACY, Metric
from graftpop.rows import DiagnosticRow, Exchanged, PeerRow

__all__ = ["Round"]


@dataclass(frozen=True)
class Round:
    """The results of one round.

    Attributes:
        round: number of the round, from 1.
        is_last: whether it is the last of the training.
        peers: one row per peer.
        grafts: columns of the exchange, one value per receiver and site.
        diagnostics: one row per peer and diagnostic.
        primary: the metric that selects peers.
    """

    round: int
    is_last: bool
    peers: list[PeerRow]
    grafts: dict[str, list[Any]] = field(default_factory=dict)
    diagnostics: list[DiagnosticRow] = field(default_factory=list)
    primary: Metric = ACCURACY

    def add_exchanges(self, by_receiver: Mapping[int, Exchanged], staleness: Mapping[int, int] | None = None) -> None:
        """Append the records of some receivers' exchanges, one receiver after the other.

        Args:
            by_receiver: records by receiver.
            staleness: rounds by which a receiver's oldest donor was behind it; None: 0 for all.
        """
        for receiver, exchanged in by_receiver.items():
            self.diagnostics.extend(
                {"peer": receiver, "other": None, "diagnostic": name, "value": value}
                for name, value in exchanged["figures"].items()
            )
            columns: Mapping[str, Any] = exchanged["columns"] or {"site": []}
            behind = 0 if staleness is None else staleness[receiver]
            for column, values in {**columns, "staleness": [behind] * len(columns["site"])}.items():
                if values:
                    self.grafts.setdefault(column, []).extend(values)

    def complete(self) -> None:
        """Write the round's number into all rows, and turn each peer's diagnostics into rows."""
        self.diagnostics[:0] = [
            {"peer": row["peer"], "other": None, "diagnostic": name, "value": value}
            for row in self.peers
            for name, value in row.pop("diagnostics")
        ]
        for row in (*self.peers, *self.diagnostics):
            row["round"] = self.round
        if self.grafts:
            self.grafts["round"] = [self.round] * len(self.grafts["site"])

    @property
    def best_peer(self) -> int:
        """The peer with the best validation score; the lowest number among equals."""
        return max(self.peers, key=self.primary.merit_of)["peer"]

    def _repr_html_(self) -> str:
        """Return the peers' rows as a table, for notebooks."""
        import pandas as pd

        title = f"Round {self.round}: validation {self.primary.label} {self.primary.text(self.score)}"
        rows = pd.DataFrame(self.peers).drop(columns="round", errors="ignore")
        return f"<p>{title}, of peer {self.best_peer}</p>{rows.to_html(index=False, na_rep='', float_format='%.4g')}"

    @property
    def score(self) -> float:
        """The population's validation score: the primary metric of its best peer, such as its accuracy."""
        return self.primary.value_of(max(self.peers, key=self.primary.merit_of))
