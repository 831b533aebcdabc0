"""The trials of a study: the state behind its tables, its terminal output and its report."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import ge
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from graftpop.errors import CheckpointError
from graftpop.metrics import Metric
from graftpop.rows import TrialRow, columns_of
from graftpop.run.checkpoints import Checkpoints
from graftpop.run.run_folder import RunFolder
from graftpop.settings import Settings
from graftpop.space import Domain, Space

__all__ = [
    "Trial",
    "best_row",
    "best_trial",
    "column_types",
    "duration",
    "objective_values",
    "pareto_front",
    "planned_trial",
    "recovered_trials",
    "restored_row",
    "trials_from_json",
    "trials_to_json",
]


T = TypeVar("T")


@dataclass
class Trial:
    """One trial.

    Attributes:
        trial_id: trial ID in tables, file names and Ray Tune.
        number: index from 0, in order of creation.
        sample: the searched keys and their values.
        num_rounds: number of rounds unless it is stopped early.
        status: pending, running, completed, stopped (by the scheduler), failed, or interrupted (can be resumed).
        result: report of its last round.
        wall_s: running time in seconds.
        error: reason for failed or interrupted, in one line.
        events: other events, one line each.
        num_epochs: number of epochs that its peers train in all rounds together; 0 if unknown.
        started_at: Unix time of its first start; None before.
        ended_at: Unix time of its end or interruption; None while it waits or runs.
    """

    trial_id: str
    number: int
    sample: Mapping[str, Any]
    num_rounds: int
    status: str = "pending"
    result: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    error: str = ""
    events: list[str] = field(default_factory=list)
    num_epochs: int = 0
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def round(self) -> int:
        """Number of completed rounds."""
        return int(self.result.get("round", 0))

    @property
    def is_over(self) -> bool:
        """Whether it has ended in this session."""
        return self.status not in ("pending", "running")

    @property
    def is_final(self) -> bool:
        """Whether it has ended and a resumed study leaves it alone."""
        return self.is_over and self.status != "interrupted"

    def row(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """Return the trial's row of `trials.parquet`, with the metrics of its task."""
        return {
            "trial_id": self.trial_id,
            "status": self.status,
            **self.sample,
            **{name: self.result.get(name) for name in columns_of(TrialRow, metrics)},
            "epochs": self.result.get("epoch", 0),
            "wall_s": self.wall_s,
            "started_at": _utc(self.started_at),
            "ended_at": _utc(self.ended_at),
            "error": self.error or None,
        }

    def start(self) -> None:
        """Record that its processes start, now."""
        self.status, self.ended_at = "running", None
        self.started_at = self.started_at or time.time()

    def wait(self) -> None:
        """Record that it waits for processes."""
        self.status, self.ended_at = "pending", None

    def end(self, status: str) -> None:
        """Record that it ends, now: completed, stopped, failed or interrupted."""
        self.status = status
        self.ended_at = None if self.started_at is None else time.time()


def _utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def planned_trial(trial_id: str, sample: Mapping[str, Any], settings: Settings) -> Trial:
    """Return a trial before it starts.

    Args:
        trial_id: its ID, a number in digits.
        sample: the searched keys and their values.
        settings: all its settings.
    """
    return Trial(trial_id, int(trial_id), sample, settings.num_rounds, num_epochs=settings.trained_epochs)


def trials_to_json(trials: Sequence[Trial], texts: dict[str, str] | None = None) -> str:
    """Return trials as JSON, see `trials_from_json`.

    Args:
        trials: the trials.
        texts: JSON of final trials by ID, from earlier calls; new ones are added.
    """
    known = {} if texts is None else texts
    known |= {one.trial_id: _to_json(one) for one in trials if one.is_final and one.trial_id not in known}
    return f"[{', '.join(known.get(one.trial_id) or _to_json(one) for one in trials)}]"


def _to_json(trial: Trial) -> str:
    return json.dumps(vars(trial), default=dict)


def trials_from_json(text: str) -> list[Trial]:
    """Return the trials that `trials_to_json` wrote.

    Raises:
        CheckpointError: the text is something else.
    """
    try:
        return TypeAdapter(list[Trial]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise CheckpointError(
            f"tune/trials.json: {where}{first['msg']}; the file is damaged or not written by graftpop"
        ) from error


def objective_values(figures: Mapping[str, Any], metrics: Iterable[str]) -> list[int | float] | None:
    """Return the values of the searched metrics; None before they are known.

    Args:
        figures: a trial's last report, or its row of `trials.parquet`.
        metrics: val_accuracy, flops and parameters, for example; the last two after removal of filters.
    """
    values = [figures.get(f"{metric}_left") or figures.get(metric) for metric in metrics]
    return None if None in values else [value for value in values if value is not None]


def pareto_front(rows: Iterable[Mapping[str, Any]], objectives: Mapping[str, str]) -> list[str]:
    """Return the IDs of the completed trials that no other completed trial beats in one metric and equals in the rest.

    Args:
        rows: rows of `trials.parquet`.
        objectives: metrics with their modes, max or min.
    """
    signs = [1 if mode == "max" else -1 for mode in objectives.values()]
    points = {
        row["trial_id"]: [sign * value for sign, value in zip(signs, values, strict=True)]
        for row in rows
        if row["status"] == "completed" and (values := objective_values(row, objectives)) is not None
    }
    return [
        trial_id
        for trial_id, point in points.items()
        if not any(other != point and all(map(ge, other, point)) for other in points.values())
    ]


def recovered_trials(folder: RunFolder, space: Space) -> list[Trial]:
    """Return the trials of a run whose `tune/trials.json` is gone, from `trials.parquet` and the newest checkpoints.

    Raises:
        CheckpointError: `trials.parquet` is damaged.
    """
    try:
        rows = folder.read_table("trials").to_pylist()
    except CheckpointError as damage:
        raise CheckpointError(
            f"{damage}; without it and tune/trials.json no trial is known; remove it, and --resume samples them again, "
            f"each from its own checkpoints"
        ) from damage
    trials = []
    for row in rows:
        trial_id, sample = row["trial_id"], space.sample_of(restored_row(row, space.domains))
        newest = next(Checkpoints(folder.of_trials("checkpoints") / trial_id).newest_first(), None)
        result = {} if newest is None else newest.metadata.summary
        trial = planned_trial(trial_id, sample, space.resolve(sample))
        trial.status, trial.result, trial.wall_s = row["status"], result, row["wall_s"]
        trial.error = row.get("error") or ""
        trial.started_at, trial.ended_at = (
            at and at.timestamp() for at in (row.get("started_at"), row.get("ended_at"))
        )
        trials.append(trial)
    return trials


def best_row(rows: Iterable[Mapping[str, Any]], primary: Metric) -> Mapping[str, Any] | None:
    """Return the row of `trials.parquet` with the best validation score; None before any round is complete.

    Completed trials come before all others; among equals the first row wins.

    Args:
        rows: rows of `trials.parquet`.
        primary: the primary metric of the task.
    """
    return _best(rows, lambda row: (row["status"], row[primary.val]), primary)


def best_trial(trials: Sequence[Trial], primary: Metric) -> Trial | None:
    """Return the best trial by the rule of `best_row`; None before any round is complete."""
    return _best(trials, lambda trial: (trial.status, trial.result.get(primary.val)), primary)


def _best(items: Iterable[T], outcome: Callable[[T], tuple[str, float | None]], primary: Metric) -> T | None:
    """Return the best item by the rule of `best_row`, given a function from an item to its status and score."""
    measured = [(item, status == "completed", value) for item in items for status, value in [outcome(item)]]
    scored = [(item, is_complete, primary.merit(value)) for item, is_complete, value in measured if value is not None]
    return max(scored, key=lambda one: one[1:], default=(None,))[0]


def duration(seconds: float) -> str:
    """Return seconds as H:MM:SS."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def column_types(domains: Mapping[str, Domain]) -> dict[str, pa.DataType]:
    """Return the column type of each searched key: numbers if all its values are numbers, else text."""
    return {key: _column_type(domain.boundary_values) for key, domain in domains.items()}


def restored_row(row: Mapping[str, Any], domains: Mapping[str, Domain]) -> dict[str, Any]:
    """Return a row of `trials.parquet` with the original searched values; those of mixed types are text in the file.

    Keys that did not matter in the trial are None; a row from `Trial.row` lacks them.
    """
    return {**row, **{key: _restored(row.get(key), domain) for key, domain in domains.items()}}


def _restored(value: Any, domain: Domain) -> Any:
    if domain.kind == "randint":
        return None if value is None else int(value)
    if not domain.is_finite:
        return value
    return next((choice for choice in domain.values if value in (choice, str(choice))), value)


def _column_type(values: Iterable[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return pa.bool_()
    if kinds <= {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()
