"""The Parquet schema of each table of a run, derived from `rows.py`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, get_args, get_type_hints

import pyarrow as pa

from graftpop.metrics import Metric
from graftpop.rows import ROWS, EventName, columns_of

__all__ = ["schemas"]

_TYPES: Final = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    EventName: pa.string(),
    datetime: pa.timestamp("ms", "UTC"),
}


def schemas(metrics: Sequence[Metric]) -> dict[str, pa.Schema]:
    """Return the schema of each table of a task with some metrics; trials also has the status and the searched keys."""
    return {name: _schema(row, metrics) for name, row in ROWS.items()}


def _schema(row: type, metrics: Sequence[Metric]) -> pa.Schema:
    """Return the schema of a table: `trial_id`, and the row's columns, whose type T may be `T | None` or `list[T]`."""
    hints = get_type_hints(row)
    kinds = {column: hints[field] for column, field in columns_of(row, metrics).items()}
    kinds = {column: kind if kind in _TYPES else get_args(kind)[0] for column, kind in kinds.items()}
    return pa.schema({"trial_id": pa.string(), **{column: _TYPES[kind] for column, kind in kinds.items()}})
