"""Tables of the report: headings and cells, each cell with its sort key."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from graftpop.study.trials import duration

__all__ = ["Cell", "cells", "heads", "shown_columns", "text_of"]

LAST = "-Infinity"
"""Sort key of cells without a value."""


class Cell(NamedTuple):
    """A cell: its text and its sort key."""

    text: str
    key: str


def shown_columns(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns with a value in some row; a searched num_peers is shown once."""
    return [
        column
        for column in columns
        if any(row[column] is not None for row in rows)
        and not (column == "num_peers" and "population.num_peers" in columns)
    ]


def heads(columns: Sequence[str]) -> list[str]:
    """Return the headings of a table of trials."""
    return [column if "." in column else HEADS.get(column, column.replace("_", " ")) for column in columns]


HEADS = {"trial_id": "trial", "wall_s": "time", "num_peers": "peers"}


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[Cell]:
    """Return the cells of a trial's row."""
    return [Cell(text_of(column, row[column]), LAST if row[column] is None else str(row[column])) for column in columns]


def text_of(column: str, value: Any) -> str:
    """Return a column's value as text: accuracies in percent, times in hours, minutes and seconds."""
    if value is None:
        return ""
    if column.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if column == "wall_s":
        return duration(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
