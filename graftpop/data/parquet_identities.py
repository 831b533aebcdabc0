"""Image tables in Parquet for recognition: an identity and a camera in each row, numbered over all files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graftpop.data.decoding import decode_blocks, size_of
from graftpop.data.identities import BOTH
from graftpop.data.parquet import IMAGE_COLUMNS, images_of, parquet_files
from graftpop.data.parquet_labels import Columns, class_names, read_labels
from graftpop.data.parquet_table import column_list, features_of, image_column, label_column, label_kind, schema_of
from graftpop.data.source import Contents, Part, Source, name_parts, root_folder
from graftpop.errors import DataError, closest
from graftpop.settings import DataSettings

__all__ = ["find_parquet_identities", "parquet_identities"]

CAMERA: Final = "camera"
"""The camera column unless `data.camera` names one; without it every image has a camera of its own."""


def find_parquet_identities(data: DataSettings) -> Source:
    """Return the tables in `data.root`; errors as in `parquet_identities`."""
    return parquet_identities("parquet", root_folder(data), data)


def parquet_identities(name: str, folder: Path, data: DataSettings, *, camera: str = CAMERA) -> Source:
    """Return a data set of identities in the Parquet files of a folder; its labels are described in `identities`.

    Args:
        name: name of the data set.
        folder: folder of the files.
        data: the columns and the size of the images.
        camera: camera column, if it exists, where `data.camera` is null.

    Raises:
        DataError: a part is missing, or the columns cannot be found.
    """
    import pyarrow

    parts = name_parts(parquet_files(folder), str(folder), "train*.parquet and test*.parquet (or val*.parquet)")
    first = parts["train"][0]
    schema = schema_of(first)
    image = image_column(schema, first, IMAGE_COLUMNS)
    wanted = data.camera or (camera if camera in schema.names else None)
    if wanted is not None and (wanted not in schema.names or label_kind(schema.field(wanted).type) is None):
        raise DataError(
            f"data.camera: must be a column of {first} that holds whole numbers or text, got '{wanted}'; the file has "
            f"{column_list(schema)}{closest(wanted, schema.names)}"
        )
    others = pyarrow.schema([field for field in schema if field.name != wanted])
    label = label_column(others, features_of(schema), data.label, first)
    columns = Columns(image, label, label_kind(schema.field(label).type) or "")
    cameras = None if wanted is None else Columns(image, wanted, label_kind(schema.field(wanted).type) or "")
    files = tuple(file for part in parts.values() for file in part)
    return Source(
        name,
        files,
        lambda: _open(parts, columns, cameras, data.image_size),
        flip=True,
        label=label,
        image_size=data.image_size,
        has_identities=True,
        camera=wanted,
    )


def _open(
    parts: Mapping[str, list[Path]], columns: Columns, cameras: Columns | None, image_size: int | None
) -> Contents:
    labels, names = _labels(parts, columns, cameras)
    encoded, where, _ = next(images_of(parts["train"], columns.image, labels["train"]))
    size = (image_size, image_size) if image_size else size_of(encoded, where)
    return Contents(
        names,
        *size,
        {
            part: Part(
                sum(map(len, labels[part])),
                decode_blocks(images_of(files, columns.image, labels[part]), *size, size=image_size),
            )
            for part, files in parts.items()
        },
    )


def _labels(
    parts: Mapping[str, list[Path]], columns: Columns, cameras: Columns | None
) -> tuple[dict[str, list[NDArray[np.int64]]], tuple[str, ...]]:
    """Return identity, camera and role of each row by part and file, (num_rows, 3), and the identities' names."""
    names = class_names(parts["train"][0], columns)
    every = [file for files in parts.values() for file in files]
    if renamed := next((file for file in every if class_names(file, columns) not in (names, None)), None):
        raise DataError(f"{renamed}: must list the class names of {every[0]}, in the same order; write both alike")
    identities = {file: read_labels(file, columns, names) for file in every}
    values: list[Any] = sorted(set().union(*(found.values for found in identities.values())))
    seen_by = {file: read_labels(file, cameras, None) for file in every} if cameras is not None else {}
    all_cameras: list[Any] = sorted(set().union(*(found.values for found in seen_by.values())))
    labels: dict[str, list[NDArray[np.int64]]] = {}
    num_images = 0
    for part, files in parts.items():
        labels[part] = []
        for file in files:
            identity = _numbers(values, identities[file].values)[identities[file].rows]
            own = np.arange(num_images, num_images + len(identity))
            camera = _numbers(all_cameras, seen_by[file].values)[seen_by[file].rows] if seen_by else own
            labels[part].append(np.stack((identity, camera, np.full(len(identity), BOTH)), axis=1))
            num_images += len(identity)
    return labels, tuple(names[value] if names else str(value) for value in values)


def _numbers(values: Sequence[Any], own: Sequence[Any]) -> NDArray[np.int64]:
    places = {value: number for number, value in enumerate(values)}
    return np.array([places[value] for value in own], np.int64)
