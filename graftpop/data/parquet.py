"""Image tables in Parquet, as model hubs store them: a struct column {bytes, path} and a label column.

Paths in a table are ignored. The memory for reading a file is bounded in advance: the file has at most one row per
byte, its pages have a maximal size, and the larger the pages, the fewer rows are read at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graftpop.data.decoding import Label, decode_blocks, size_of
from graftpop.data.parquet_labels import Columns, class_names, read_classes
from graftpop.data.parquet_table import (
    TableFile,
    batches,
    features_of,
    image_column,
    label_column,
    label_kind,
    reading,
    schema_of,
)
from graftpop.data.paths import check_inside
from graftpop.data.source import Contents, Part, Source, name_parts, root_folder
from graftpop.errors import DataError
from graftpop.settings import DataSettings

__all__ = ["IMAGE_COLUMNS", "find_parquet", "images_of", "parquet_files", "parquet_source", "part_of"]

IMAGE_COLUMNS: Final = ("image", "img")


def find_parquet(data: DataSettings) -> Source:
    """Return the tables in `data.root`; errors as in `parquet_source`."""
    root = root_folder(data)
    return parquet_source("parquet", root, parquet_files(root), data.label, image_size=data.image_size)


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Return the Parquet files below a folder by part: "train", "val", "test".

    The part is the prefix of the file's name, or of the nearest folder above it with such a prefix. Other files are
    ignored.

    Raises:
        DataError: the files of a part are in folders of several data sets, or a link leads out of `folder`.
    """
    files: dict[str, list[Path]] = {}
    data_sets: dict[str, set[str]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        parts = file.relative_to(folder).parts
        for depth in reversed(range(len(parts))):
            if (part := part_of(parts[depth])) is not None:
                check_inside(file, folder)
                files.setdefault(part, []).append(file)
                above = [name for name in parts[:depth] if part_of(name) is None and name.lower() != "data"]
                data_sets.setdefault(part, set()).add("/".join(above) or ".")
                break
    for part, names in data_sets.items():
        if len(names) > 1:
            raise DataError(
                f"{folder}: must hold one data set, got files of {part} in {', '.join(sorted(names)[:10])}; set "
                "data.root to one of these folders, or move the files into one"
            )
    return files


def part_of(name: str) -> str | None:
    """Return the part that the name of a file, folder or split begins with: "train", "val" or "test"."""
    return next((part for part in ("train", "val", "test") if name.lower().startswith(part)), None)


def parquet_source(
    name: str,
    folder: Path,
    files: Mapping[str, Sequence[TableFile]],
    label: str | None,
    *,
    usual_label: str | None = None,
    image_size: int | None = None,
) -> Source:
    """Return a data set in tables, whose mirrored images are as good as the originals.

    Args:
        name: name of the data set.
        folder: the searched folder, for messages.
        files: Parquet files by part, see `parquet_files`, or other tables.
        label: the label column; None: found from the schema.
        usual_label: label column to use, if it exists, where `label` is None.
        image_size: side of the squares that images are cropped and scaled to, in pixels; None: all have one size.

    Raises:
        DataError: a part is missing, or the columns cannot be found.
    """
    parts = name_parts(files, str(folder), "train*.parquet and test*.parquet (or val*.parquet)")
    first = parts["train"][0]
    schema = schema_of(first)
    features = features_of(schema)
    image = image_column(schema, first, IMAGE_COLUMNS)
    if label is None and usual_label in schema.names:
        label = usual_label
    label = label_column(schema, features, label, first)
    columns = Columns(image, label, label_kind(schema.field(label).type) or "")
    class_names(first, columns)

    def open_tables() -> Contents:
        return _open(parts, columns, image_size)

    tables = [file for part in parts.values() for file in part]
    every_file = tuple(path for file in tables for path in ([file] if isinstance(file, Path) else file.files))
    return Source(name, every_file, open_tables, flip=True, label=label, image_size=image_size)


def _open(parts: Mapping[str, Sequence[TableFile]], columns: Columns, side: int | None) -> Contents:
    classes = read_classes(parts, columns)
    images = {part: images_of(files, columns.image, classes.labels[part]) for part, files in parts.items()}
    encoded, where, _ = next(images_of(parts["train"], columns.image, classes.labels["train"]))
    height, width = (side, side) if side else size_of(encoded, where)
    return Contents(
        classes.names,
        height,
        width,
        {
            part: Part(sum(map(len, classes.labels[part])), decode_blocks(of_part, height, width, size=side))
            for part, of_part in images.items()
        },
        classes.notes,
    )


def images_of(
    files: Sequence[TableFile], image: str, labels: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[bytes, str, Label]]:
    """Yield (encoded image, its name for messages, label) row by row, reading a few rows at a time."""
    for file, of_file in zip(files, labels, strict=True):
        row = 0
        with reading(file):
            for batch in batches(file, image, "bytes"):
                for cell, number in zip(batch.column(image), of_file[row : row + len(batch)].tolist(), strict=True):
                    where, encoded = f"{file} row {row}", (cell.as_py() or {}).get("bytes")
                    if encoded is None:
                        raise DataError(f"{where}: column '{image}' must hold the bytes of an image, got null")
                    yield encoded, where, number
                    row += 1
            if row != len(of_file):
                raise DataError(f"{file}: must have an image per label, got {row} images and {len(of_file)} labels")
