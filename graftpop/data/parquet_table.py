"""One table of images: its schema, its image and label columns, and its rows in batches of bounded memory.

A table is the path of a Parquet file, or a `Table` in another format.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from graftpop.data.parquet_page_sizes import largest_page
from graftpop.errors import DataError, closest, one_line

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "BATCH_ROWS", "NUMBERS", "TEXT", "TRUE_FALSE", "Table", "TableFile", "batches", "column_list", "features_of",
    "image_column", "label_column", "label_kind", "num_rows_of", "page_bytes", "reading", "schema_of",
]  # fmt: skip

NUMBERS, TRUE_FALSE, TEXT = "whole numbers", "true/false", "text"
MAX_PAGE_BYTES: Final = 2**28  # decompressed; writers cut pages after 1 MiB or 1024 images
BATCH_ROWS: Final = 256  # in memory
BATCH_BYTES: Final = 2**26  # for rows as large as a page: a dictionary page can repeat one image


class Table(Protocol):
    """A table that is not in Parquet; its text names it in messages."""

    @property
    def format(self) -> str:
        """Name of the format, for messages."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it."""

    @property
    def most_rows(self) -> int:
        """An upper bound of the number of rows."""

    def schema(self) -> "pyarrow.Schema":
        """Return its schema."""

    def num_rows(self) -> int:
        """Return its number of rows."""

    def batches(self, column: str) -> "Iterator[pyarrow.RecordBatch]":
        """Yield a column in batches of at most BATCH_ROWS rows."""


TableFile = Path | Table


def batches(file: TableFile, column: str, field: str = "") -> "Iterator[pyarrow.RecordBatch]":
    """Yield a column in batches of at most BATCH_ROWS rows; the larger its pages, the fewer rows.

    Args:
        file: a table.
        column: name of a column.
        field: the only field of a struct column to read, if that is possible.
    """
    from pyarrow import parquet

    if not isinstance(file, Path):
        yield from file.batches(column)
        return
    column += f".{field}" if field else ""
    num_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // (page_bytes(file, [column]) + 1)))
    with parquet.ParquetFile(file) as table:
        yield from table.iter_batches(num_rows, columns=[column])


def num_rows_of(file: TableFile) -> tuple[int, int]:
    """Return the number of rows that a table claims, and an upper bound of the true number."""
    from pyarrow import parquet

    if not isinstance(file, Path):
        return file.num_rows(), file.most_rows
    # each image takes several bytes
    return parquet.read_metadata(file).num_rows, file.stat().st_size


def page_bytes(file: TableFile, columns: Sequence[str]) -> int:
    """Return the decompressed size of the largest page in bytes, at most MAX_PAGE_BYTES; 0 if it has no pages."""
    largest = largest_page(file, columns) if isinstance(file, Path) else 0
    if largest > MAX_PAGE_BYTES:
        raise DataError(
            f"{file}: pages must have at most {MAX_PAGE_BYTES} bytes decompressed, got {largest}; "
            "rewrite it with smaller pages"
        )
    return largest


def schema_of(file: TableFile) -> "pyarrow.Schema":
    """Return the schema of a table, whose column names are one line each."""
    from pyarrow import parquet

    with reading(file):
        schema = parquet.read_schema(file) if isinstance(file, Path) else file.schema()
        if broken := [name for name in schema.names if "".join(name.splitlines()) != name]:
            raise DataError(f"{file}: column names must be one line, got {broken[0]!a}; rename it")
        return schema


@contextmanager
def reading(file: TableFile) -> Iterator[None]:
    """Turn the errors that libraries raise on a damaged table into a DataError."""
    import pyarrow

    try:
        yield
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "Parquet" if isinstance(file, Path) else file.format
        raise DataError(f"{file}: cannot be read as {kind} ({one_line(error)}); fetch it again") from error


def features_of(schema: "pyarrow.Schema") -> dict[str, Any]:
    """Return the hub's metadata by column; empty if there is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def image_column(schema: "pyarrow.Schema", file: object, names: Sequence[str]) -> str:
    """Return the first of some names that is a column of images.

    Args:
        schema: of the table.
        file: the table, for messages.
        names: candidates.

    Raises:
        DataError: none is.
    """
    import pyarrow

    for name in names:
        if schema.names.count(name) == 1:
            kind = schema.field(name).type
            index = kind.get_field_index("bytes") if pyarrow.types.is_struct(kind) else -1
            if index >= 0 and kind[index].type in (pyarrow.binary(), pyarrow.large_binary()):
                return name
    raise DataError(f"{file}: needs a column 'image' or 'img' of struct{{bytes, path}}, got {column_list(schema)}")


def label_column(schema: "pyarrow.Schema", features: Mapping[str, Any], requested: str | None, file: object) -> str:
    """Return the label column: the requested one, else the only one that the schema allows.

    Args:
        schema: of the table.
        features: the hub's metadata, see `features_of`.
        requested: `data.label`.
        file: the table, for messages.

    Raises:
        DataError: there is none, or several.
    """
    import pyarrow

    usable: list[str] = [
        field.name for field in schema if label_kind(field.type) and schema.names.count(field.name) == 1
    ]
    if requested is not None:
        if requested not in usable:
            raise DataError(
                f"data.label: must be a column of {file} that holds whole numbers, true/false or text, got "
                f"'{requested}'; the file has {column_list(schema)}{closest(requested, usable)}"
            )
        return requested
    integers = [name for name in usable if pyarrow.types.is_integer(schema.field(name).type)]
    classes = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    # Other kinds are candidates if there is no integer column, or if a column is called `label`.
    candidates = classes or (integers if "label" not in {*usable} - {*integers} else None) or usable
    if len(candidates) != 1:
        advice = f"set data.label to one of {', '.join(usable)}" if usable else "add one"
        raise DataError(
            f"{file}: needs one label column of whole numbers, true/false or text, got {column_list(schema)}; "
            f"{one_line(advice)}"
        )
    return candidates[0]


def label_kind(kind: "pyarrow.DataType") -> str | None:
    """Return how a column of labels is read; None if its type holds no labels."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_floating(kind):
        return NUMBERS
    if types.is_boolean(kind):
        return TRUE_FALSE
    return TEXT if types.is_string(kind) or types.is_large_string(kind) else None


def column_list(schema: "pyarrow.Schema") -> str:
    """Return the names and types of the columns, for messages."""
    # Struct types are shortened: some versions print them over several lines.
    import pyarrow

    return (
        one_line(
            ", ".join(
                f"'{field.name}' ({'struct' if pyarrow.types.is_struct(field.type) else field.type})"
                for field in schema
            )
        )
        or "no columns"
    )
