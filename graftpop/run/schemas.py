"""The Parquet schema of each table of a run, derived from `rows.py`."""

from datetime import datetime
from typing import Final, get_args, get_type_hints

import pyarrow as pa

from graftpop.rows import ROWS, EventName

__all__ = ["RECORD_SCHEMAS", "SCHEMAS"]

_TYPES: Final = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    EventName: pa.string(),
    datetime: pa.timestamp("ms", "UTC"),
}


def _schema(row: type) -> pa.Schema:
    """Return the schema of a table: `trial_id`, and a column per field, whose type T may be `T | None` or `list[T]`."""
    kinds = {name: kind if kind in _TYPES else get_args(kind)[0] for name, kind in get_type_hints(row).items()}
    return pa.schema({"trial_id": pa.string(), **{name: _TYPES[kind] for name, kind in kinds.items()}})


SCHEMAS: Final = {name: _schema(row) for name, row in ROWS.items()}
"""The schema of each table; `trials.parquet` also has the status and the searched keys."""

RECORD_SCHEMAS: Final = {name: schema for name, schema in SCHEMAS.items() if name != "trials"}
"""The tables that trials write."""
