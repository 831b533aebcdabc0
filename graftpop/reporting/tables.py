"""Tables of the report: their heads and cells, each cell with what it is sorted by."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from graftpop.study.trials import duration

__all__ = ["Cell", "cells", "heads", "shown_columns", "text_of"]

LAST = "-Infinity"
"""What cells without a value are sorted by."""


class Cell(NamedTuple):
    """A cell: what it says, and the number or text that it is sorted by."""

    text: str
    key: str


def shown_columns(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns in which some row has a value, each number once."""
    return [
        column
        for column in columns
        if any(row[column] is not None for row in rows)
        and not (column == "num_peers" and "population.num_peers" in columns)
    ]


def heads(columns: Sequence[str]) -> list[str]:
    """Return what the columns of a table of trials are called."""
    return [column if "." in column else HEADS.get(column, column.replace("_", " ")) for column in columns]


HEADS = {"trial_id": "trial", "wall_s": "time", "num_peers": "peers"}


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[Cell]:
    """Return the cells of a trial's row."""
    return [Cell(text_of(column, row[column]), LAST if row[column] is None else str(row[column])) for column in columns]


def text_of(column: str, value: Any) -> str:
    """Return a value of a column as it is read: accuracies in per cent, times in hours, minutes and seconds."""
    if value is None:
        return ""
    if column.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if column == "wall_s":
        return duration(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
