"""Image tables in Parquet, as model hubs store them: a struct column {bytes, path} and an integer label column.

Paths in a table are ignored. The memory for a file is bounded before it is read: it has at most one row per byte, its
pages have a maximal size, and the larger the pages, the fewer rows are read at once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from graftpop.data.decoding import decode_blocks, size_of
from graftpop.data.parquet_page_sizes import largest_page
from graftpop.data.paths import check_inside
from graftpop.data.source import Contents, Part, Source, name_parts, root_folder
from graftpop.errors import DataError, closest, one_line
from graftpop.settings import DataSettings

if TYPE_CHECKING:
    import pyarrow

__all__ = ["find_parquet", "parquet_files", "parquet_source"]

IMAGE_COLUMNS: Final = ("image", "img")
MAX_CLASSES: Final = 2**16  # a column with more values holds no labels
MAX_ROWS: Final = 2**24  # per part; ImageNet-21k has 14 million images
MAX_PAGE_BYTES: Final = 2**28  # decompressed; writers cut pages after 1 MiB or 1024 images
BATCH_ROWS: Final = 256  # encoded rows in memory
BATCH_BYTES: Final = 2**26  # bounds the rows if each were as large as a page: a dictionary page can repeat one image


def find_parquet(data: DataSettings) -> Source:
    """Return the tables in `data.root`; errors as in `parquet_source`."""
    root = root_folder(data)
    return parquet_source("parquet", root, parquet_files(root), data.label, image_size=data.image_size)


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Return the Parquet files below a folder by part: "train", "val", "test".

    The part is the prefix of the file's name, or of the nearest folder above it with such a prefix. Other files are
    ignored.
    """
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        names = [name.lower() for name in reversed(file.relative_to(folder).parts)]
        part = next((part for name in names for part in ("train", "val", "test") if name.startswith(part)), None)
        if part is not None:
            check_inside(file, folder)
            files.setdefault(part, []).append(file)
    return files


def parquet_source(
    name: str,
    folder: Path,
    files: Mapping[str, list[Path]],
    label: str | None,
    *,
    usual_label: str | None = None,
    image_size: int | None = None,
) -> Source:
    """Return a data set in Parquet files, whose mirrored images are as good as the originals.

    Args:
        name: name of the data set.
        folder: the searched folder, for messages.
        files: files by part, see `parquet_files`.
        label: the label column; None: found from the schema.
        usual_label: label column to use, if it exists, where `label` is None.
        image_size: side of the squares that images are cropped and scaled to, in pixels; None: all have one size.

    Raises:
        DataError: a part is missing, or the columns cannot be found.
    """
    parts = name_parts(files, str(folder), "train*.parquet and test*.parquet (or val*.parquet)")
    first = parts["train"][0]
    schema = _schema(first)
    features = _features(schema)
    image = _image_column(schema, first, IMAGE_COLUMNS)
    if label is None and usual_label in schema.names:
        label = usual_label
    label = _label_column(schema, features, label, first)
    names = features.get(label, {}).get("names")
    class_names = tuple(map(str, names)) if isinstance(names, list) and names else None
    if class_names is not None and len(class_names) > MAX_CLASSES:
        raise DataError(
            f"{first}: must have at most {MAX_CLASSES} classes, got {len(class_names)} names of '{label}'; "
            "set data.label to another column"
        )

    def open_tables() -> Contents:
        return _open(parts, image, label, class_names, image_size)

    every_file = tuple(file for part in parts.values() for file in part)
    return Source(name, every_file, open_tables, flip=True, label=label, image_size=image_size)


def _open(
    parts: Mapping[str, list[Path]], image: str, label: str, names: tuple[str, ...] | None, side: int | None
) -> Contents:
    labels = {
        part: [_labels(file, image, label, len(names) if names else MAX_CLASSES) for file in files]
        for part, files in parts.items()
    }
    num_images = {part: sum(map(len, of_files)) for part, of_files in labels.items()}
    for part, files in parts.items():
        if not num_images[part]:
            raise DataError(f"{files[0]}: must hold images, got no rows")
        if num_images[part] > MAX_ROWS:
            raise DataError(
                f"{files[0]}: must have at most {MAX_ROWS} rows with the other files of {part}, got "
                f"{num_images[part]}; set data.root to a folder with fewer"
            )
    if names is None:
        num_classes = 1 + max(int(of_file.max()) for of_file in labels["train"] if len(of_file))
        names = tuple(map(str, range(num_classes)))
        for part, files in parts.items():
            for file, of_file in zip(files, labels[part], strict=True):
                _check_labels(of_file, file, label, num_classes)
    encoded, where, _ = next(_images(parts["train"], image, label))
    height, width = (side, side) if side else size_of(encoded, where)
    return Contents(
        names,
        height,
        width,
        {
            part: Part(
                num_images[part], decode_blocks(_images(files, image, label), height, width, scaled=side is not None)
            )
            for part, files in parts.items()
        },
    )


def _images(files: Sequence[Path], image: str, label: str) -> Iterator[tuple[bytes, str, int]]:
    """Yield (encoded image, its name for messages, label) row by row, reading a few rows at a time."""
    from pyarrow import parquet

    columns = [f"{image}.bytes", label]
    for file in files:
        row = 0
        with _reading(file), parquet.ParquetFile(file) as table:
            batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // (_page_bytes(file, columns) + 1)))
            for batch in table.iter_batches(batch_rows, columns=columns):
                for cell, number in zip(batch.column(image), batch.column(label), strict=True):
                    where, encoded = f"{file} row {row}", (cell.as_py() or {}).get("bytes")
                    if encoded is None:
                        raise DataError(f"{where}: column '{image}' must hold the bytes of an image, got null")
                    yield encoded, where, number.as_py()
                    row += 1


def _labels(file: Path, image: str, label: str, num_classes: int) -> NDArray[np.int64]:
    """Return the checked labels of a file, int64 (num_rows,)."""
    from pyarrow import parquet

    schema = _schema(file)
    try:
        _image_column(schema, file, [image])
        _label_column(schema, {}, label, file)
    except DataError as error:
        raise DataError(
            f"{file}: must have the columns '{image}' and '{label}' (integer) of the first training file, "
            f"got {_columns(schema)}"
        ) from error
    with _reading(file), parquet.ParquetFile(file) as table:
        if not 0 <= table.metadata.num_rows <= min(MAX_ROWS, file.stat().st_size):  # each image takes several bytes
            raise DataError(
                f"{file}: must have at most {MAX_ROWS} rows, and no more than it has bytes, got "
                f"{table.metadata.num_rows}; split it into several files"
            )
        _page_bytes(file, [f"{image}.bytes", label])
        column = table.read([label]).column(label)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{file} row {row}: column '{label}' must hold a class number, got null")
        labels: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    _check_labels(labels, file, label, num_classes)
    return labels


def _page_bytes(file: Path, columns: Sequence[str]) -> int:
    """Return the decompressed size of the largest page in bytes, at most MAX_PAGE_BYTES."""
    page_bytes = largest_page(file, columns)
    if page_bytes > MAX_PAGE_BYTES:
        raise DataError(
            f"{file}: pages must have at most {MAX_PAGE_BYTES} bytes decompressed, got {page_bytes}; "
            "rewrite it with smaller pages"
        )
    return page_bytes


def _check_labels(labels: NDArray[np.int64], file: Path, label: str, num_classes: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{file} row {wrong[0]}: column '{label}' must be in [0, {num_classes - 1}], got {labels[wrong[0]]}"
        )


def _schema(file: Path) -> "pyarrow.Schema":
    from pyarrow import parquet

    with _reading(file):
        schema = parquet.read_schema(file)
        if broken := [name for name in schema.names if "".join(name.splitlines()) != name]:
            raise DataError(f"{file}: column names must be one line, got {broken[0]!a}; rename it")
        return schema


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn the errors that libraries raise on a damaged file into a DataError."""
    import pyarrow

    try:
        yield
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({one_line(error)}); fetch it again") from error


def _features(schema: "pyarrow.Schema") -> dict[str, Any]:
    """Return the hub's metadata by column; empty if there is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _image_column(schema: "pyarrow.Schema", file: Path, names: Sequence[str]) -> str:
    import pyarrow

    for name in names:
        if schema.names.count(name) == 1:
            kind = schema.field(name).type
            index = kind.get_field_index("bytes") if pyarrow.types.is_struct(kind) else -1
            if index >= 0 and kind[index].type in (pyarrow.binary(), pyarrow.large_binary()):
                return name
    raise DataError(f"{file}: needs a column 'image' or 'img' of struct{{bytes, path}}, got {_columns(schema)}")


def _label_column(schema: "pyarrow.Schema", features: Mapping[str, Any], requested: str | None, file: Path) -> str:
    import pyarrow

    integers: list[str] = [
        field.name for field in schema if pyarrow.types.is_integer(field.type) and schema.names.count(field.name) == 1
    ]
    if requested is not None:
        if requested not in integers:
            raise DataError(
                f"data.label: must be an integer column of {file}, got '{requested}'; "
                f"the file has {_columns(schema)}{closest(requested, integers)}"
            )
        return requested
    classes = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    candidates = classes or integers
    if len(candidates) != 1:
        raise DataError(f"{file}: needs one label column, got {_columns(schema)}; set data.label to one of them")
    return candidates[0]


def _columns(schema: "pyarrow.Schema") -> str:
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
