"""Headings and cells of the table of trials, with sort keys."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from graftpop.metrics import is_share, label_of, text_of_metric
from graftpop.study.trials import duration

__all__ = ["Cell", "cells", "heads", "searched_text", "shown_columns", "text_of"]


class Cell(NamedTuple):
    """A cell: the shown text, and the exact value for sorting and for the CSV; both are empty without a value."""

    text: str
    key: str


def shown_columns(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns with a value in some row, without a repeated `num_peers`."""
    return [
        column
        for column in columns
        if any(row[column] is not None for row in rows)
        and not (column == "num_peers" and "population.num_peers" in columns)
    ]


def heads(columns: Sequence[str]) -> list[str]:
    """Return the headings of columns of `trials.parquet`."""
    return [column if "." in column else HEADS.get(column, label_of(column)) for column in columns]


HEADS = {"trial_id": "trial", "wall_s": "time", "time_s": "time, one device per peer", "num_peers": "peers"}


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[Cell]:
    """Return the cells of a trial for the given columns."""
    return [Cell(text_of(column, row[column]), "" if row[column] is None else str(row[column])) for column in columns]


def text_of(column: str, value: Any) -> str:
    """Return a value as text: shares in percent, times in hours, minutes and seconds."""
    if value is None:
        return ""
    if is_share(column):
        return text_of_metric(column, value)
    if column in ("wall_s", "time_s"):
        return duration(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def searched_text(key: str, value: Any) -> str:
    """Return the value of a searched key as text; null as in YAML."""
    return "null" if value is None else text_of(key, value)
