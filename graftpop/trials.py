"""The trials of a study as they stand: what the tables, the terminal and the final report are made from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from graftpop.space import Domain

__all__ = ["Trial", "best_row", "best_trial", "column_types"]


@dataclass
class Trial:
    """One trial.

    Attributes:
        trial_id: as Ray Tune names it.
        number: from 0, in the order in which the trials were made.
        sample: the searched keys and their values.
        num_rounds: how many it has when nothing stops it.
        status: pending, running, completed, stopped (by the scheduler), failed or interrupted.
        result: what its last round reported.
        wall_s: seconds it has run.
        error: why it failed, in one line.
    """

    trial_id: str
    number: int
    sample: Mapping[str, Any]
    num_rounds: int
    status: str = "pending"
    result: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    error: str = ""

    @property
    def round(self) -> int:
        """Rounds done."""
        return int(self.result.get("round", 0))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status not in ("pending", "running")

    def row(self) -> dict[str, Any]:
        """Return the trial's row of `trials.parquet`."""
        measured = ("val_accuracy", "test_accuracy", "ensemble_test_accuracy", "num_peers", "train_images",
                    "parameters", "flops", "removed_filters", "parameters_left", "flops_left")
        return {"trial_id": self.trial_id, "status": self.status, **self.sample,
                **{name: self.result.get(name) for name in measured},
                "epochs": self.result.get("epoch", 0), "wall_s": self.wall_s}


def best_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row of `trials.parquet` with the highest validation accuracy.

    Of a completed trial if there is one, the first of equals; None where no trial has finished a round.
    """
    measured = [row for row in rows if row["val_accuracy"] is not None]
    return max(measured, key=lambda row: (row["status"] == "completed", row["val_accuracy"]), default=None)


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial, as `best_row` says."""
    best = best_row(trial.row() for trial in trials)
    return next((trial for trial in trials if best and trial.trial_id == best["trial_id"]), None)


def column_types(domains: Mapping[str, Domain]) -> dict[str, pa.DataType]:
    """Return what the column of each searched key holds: numbers where all its values are, else text."""
    return {key: _column_type(domain.corners) for key, domain in domains.items()}


def _column_type(values: Iterable[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return pa.bool_()
    if kinds <= {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()
