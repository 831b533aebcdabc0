"""Labels of image tables: class numbers, true/false or text, read from every file and numbered alike.

Numbers with names (a hub's ClassLabel) mean the names: a file that lists them in another order is renumbered.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from graftpop.data.parquet_table import (
    TEXT,
    TRUE_FALSE,
    TableFile,
    batches,
    column_list,
    features_of,
    image_column,
    label_kind,
    num_rows_of,
    page_bytes,
    reading,
    schema_of,
)
from graftpop.errors import DataError, one_line

if TYPE_CHECKING:
    import pyarrow

__all__ = ["class_names", "Classes", "Columns", "Labels", "read_classes", "read_labels"]

MAX_CLASSES: Final = 2**16  # a column with more values holds no labels
MAX_ROWS: Final = 2**24  # per part; ImageNet-21k has 14 million images
MAX_NAME_BYTES: Final = 1024  # of a label that is text


@dataclass(frozen=True)
class Columns:
    """The columns of all files."""

    image: str
    label: str
    kind: str  # of the labels: see `label_kind`


@dataclass(frozen=True)
class Classes:
    """The classes of a data set and the labels of its files."""

    names: tuple[str, ...]
    labels: Mapping[str, Sequence[NDArray[np.int64]]]  # by part and file, (num_rows,)
    notes: tuple[str, ...]  # lines for the user, see `Contents`


@dataclass(frozen=True)
class Labels:
    """The labels of a file: distinct values, int or str, and each row's position among them, int64 (num_rows,)."""

    values: list[Any]
    rows: NDArray[np.int64]

    def check(self, fit: Iterable[bool], file: TableFile, rule: str) -> None:
        """Check that all values fit; name the first row that does not."""
        wrong = np.flatnonzero(~np.array([*fit], bool)[self.rows])
        if len(wrong):
            got = one_line(self.values[self.rows[wrong[0]]])[:100]
            raise DataError(f"{file} row {wrong[0]}: {rule}, got {got}")


def class_names(file: TableFile, columns: Columns) -> tuple[str, ...] | None:
    """Return the names of the class numbers in a file; None if it has none.

    Raises:
        DataError: there are more than MAX_CLASSES.
    """
    if columns.kind == TRUE_FALSE:
        return "False", "True"
    names = features_of(schema_of(file)).get(columns.label, {}).get("names")
    if columns.kind == TEXT or not isinstance(names, list) or not names:
        return None
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"{file}: must have at most {MAX_CLASSES} classes, got {len(names)} names of '{columns.label}'; "
            "set data.label to another column"
        )
    return tuple(map(str, names))


def read_classes(parts: Mapping[str, Sequence[TableFile]], columns: Columns) -> Classes:
    """Return the classes and all labels of a data set.

    The classes are the names in the first training file; without names, the labels of the training files, sorted.

    Args:
        parts: files by part.
        columns: those of the first training file.

    Raises:
        DataError: a file cannot be read, has no label column of this kind, or lacks a label; or a label is no class.
    """
    own = {file: class_names(file, columns) for files in parts.values() for file in files}
    first = parts["train"][0]
    named = own[first] or next(filter(None, own.values()), None)  # gives the numbers of all files their meaning
    found = {file: read_labels(file, columns, names or own[first], names and named) for file, names in own.items()}
    for part, files in parts.items():
        num_rows = sum(len(found[file].rows) for file in files)
        if not num_rows:
            raise DataError(f"{files[0]}: must hold images, got no rows")
        if num_rows > MAX_ROWS:
            raise DataError(
                f"{files[0]}: must have at most {MAX_ROWS} rows with the other files of {part}, got "
                f"{num_rows}; set data.root to a folder with fewer"
            )
    values: list[Any] = sorted(set().union(*(found[file].values for file in parts["train"])))
    if len(values) > MAX_CLASSES:
        raise DataError(
            f"{first}: must have at most {MAX_CLASSES} classes, got {len(values)} values of '{columns.label}'; "
            "set data.label to another column"
        )
    names = own[first] or tuple(map(str, values))
    plain = own[first] is not None or values == list(range(len(values)))
    numbers = {value: number for number, value in enumerate(range(len(names)) if plain else values)}
    rule = f"in [0, {len(names) - 1}]" if plain else f"one of the {len(names)} labels of the training files"
    labels = {
        part: [_numbered(found[file], numbers, rule, file, columns) for file in files] for part, files in parts.items()
    }
    return Classes(names, labels, () if plain else (_note(values, columns),))


def _note(values: Sequence[Any], columns: Columns) -> str:
    shown = ", ".join(one_line(value)[:20] for value in values[:5]) + (", ..." if len(values) > 5 else "")
    reason = "is text" if columns.kind == TEXT else "does not count from 0 without gaps"
    return f"data.label: '{columns.label}' {reason}, so its {len(values)} sorted values are the classes: {shown}"


def _numbered(
    labels: Labels, numbers: Mapping[Any, int], rule: str, file: TableFile, columns: Columns
) -> NDArray[np.int64]:
    labels.check((value in numbers for value in labels.values), file, f"column '{columns.label}' must be {rule}")
    return np.array([numbers[value] for value in labels.values], np.int64)[labels.rows]


def read_labels(
    file: TableFile, columns: Columns, names: tuple[str, ...] | None, named: tuple[str, ...] | None = None
) -> Labels:
    """Return the labels of a file: text, or numbers.

    Args:
        file: a table.
        columns: those of the first training file.
        names: meaning of the numbers in the file, or the names of the first training file; None: there are none.
        named: class names whose positions replace the numbers; None: the numbers stay.
    """
    _check_columns(file, columns)
    with reading(file):
        claimed, most_rows = num_rows_of(file)
        if not 0 <= claimed <= min(MAX_ROWS, most_rows):
            raise DataError(
                f"{file}: must have at most {MAX_ROWS} rows, and no more than it has bytes, got {claimed}; split it "
                "into several files"
            )
        page_bytes(file, [f"{columns.image}.bytes", columns.label])
        found: dict[Any, int] = {}
        rows = [np.zeros(0, np.int64)]
        num_rows = 0
        for batch in batches(file, columns.label):
            distinct = _distinct(batch.column(0), file, num_rows, columns)
            rows.append(np.array([found.setdefault(value, len(found)) for value in distinct.values])[distinct.rows])
            num_rows += len(batch)
    labels = Labels([*found], np.concatenate(rows))
    if columns.kind == TEXT:
        return labels
    last = len(names or range(MAX_CLASSES)) - 1
    rule = f"column '{columns.label}' must be"
    labels.check((0 <= number <= last for number in labels.values), file, f"{rule} in [0, {last}]")
    if names is None or named is None or names == named:
        return labels
    if len({*names}) < len(names) or len({*named}) < len(named):
        raise DataError(f"{file}: class names in another order must be distinct, got {one_line(', '.join(names))}")
    labels = Labels([names[number] for number in labels.values], labels.rows)
    labels.check((name in named for name in labels.values), file, f"{rule} a class of the other files")
    return Labels([named.index(name) for name in labels.values], labels.rows)


def _check_columns(file: TableFile, columns: Columns) -> None:
    """Check that a file has the columns of the first training file."""
    schema = schema_of(file)
    kinds = [label_kind(field.type) for field in schema if field.name == columns.label]
    try:
        image_column(schema, file, [columns.image])
        if kinds != [columns.kind]:
            raise DataError(f"{file}: needs one label column")
    except DataError as error:
        raise DataError(
            f"{file}: must have the columns '{columns.image}' and '{columns.label}' ({columns.kind}) of the first "
            f"training file, got {column_list(schema)}"
        ) from error


def _distinct(column: "pyarrow.Array", file: TableFile, first_row: int, columns: Columns) -> Labels:
    """Return the labels in some rows of a file, after a check that each is whole and not missing."""
    import pyarrow
    from pyarrow import compute

    def check(fit: NDArray[np.bool_], rule: str) -> None:
        if not fit.all():
            row = int(fit.argmin())
            got = one_line("null" if (value := column[row].as_py()) is None else value)[:100]
            raise DataError(f"{file} row {first_row + row}: column '{columns.label}' must {rule}, got {got}")

    check(column.is_valid().to_numpy(zero_copy_only=False), "hold a label")
    is_dictionary = pyarrow.types.is_dictionary(column.type)
    if columns.kind == TEXT:
        column = column if is_dictionary else column.dictionary_encode()
        used, rows = np.unique(column.indices.to_numpy(), return_inverse=True)
        texts = column.dictionary.take(pyarrow.array(used))
        short = compute.binary_length(texts).to_numpy() <= MAX_NAME_BYTES
        check(short[rows], f"have at most {MAX_NAME_BYTES} bytes of text")
        return Labels(texts.to_pylist(), rows)
    numbers = (column.dictionary_decode() if is_dictionary else column).to_numpy(zero_copy_only=False)
    if pyarrow.types.is_floating(column.type):
        numbers = numbers.astype(np.float64)
        check((np.floor(numbers) == numbers) & (abs(numbers) < 2**53), "hold a whole number")
    values, rows = np.unique(numbers.astype(np.int64), return_inverse=True)
    return Labels(values.tolist(), rows)
