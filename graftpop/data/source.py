"""A data set before it is decoded: its location, then its content.

Every process finds it, which is cheap; one process per node opens and decodes it (`cache.py`).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from graftpop.data.decoding import Block
from graftpop.errors import DataError
from graftpop.settings import DataSettings

__all__ = ["Color", "Contents", "Part", "root_folder", "name_parts", "Source"]

T = TypeVar("T")
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """The training, validation or test images."""

    num_images: int
    blocks: Iterator[Block]  # decoded lazily, in order


@dataclass(frozen=True)
class Contents:
    """An opened and checked data set of images of one size, not decoded yet."""

    class_names: tuple[str, ...]
    height: int
    width: int
    parts: Mapping[str, Part]  # "train", "test" and possibly "val"
    notes: tuple[str, ...] = ()  # lines for the user about unusual images or labels, and their treatment


@dataclass(frozen=True)
class Source:
    """Location of a data set of images of one size."""

    name: str
    files: tuple[Path, ...]  # all files that the contents depend on
    open: Callable[[], Contents]
    flip: bool  # whether mirrored images are as good as the originals
    mean_std: tuple[Color, Color] | None = None  # of pixels in [0, 1]; None: computed from the training images
    label: str | None = None  # Parquet: the label column
    image_size: int | None = None  # side of the squares that images are scaled to; None: they have one size
    has_identities: bool = False  # recognition: its labels are identity, camera and role
    camera: str | None = None  # recognition: the camera column of a Parquet table
    notes: tuple[str, ...] = ()  # like those of the contents, but not cached
    version: str | None = None  # of contents that are in no files


def root_folder(data: DataSettings) -> Path:
    """Return `data.root` with `~` expanded.

    Raises:
        DataError: it is not set, or is no folder.
    """
    if data.root is None:
        raise DataError(f"data.root: data.name '{data.name}' needs the folder of the images, got none; set data.root")
    root = Path(os.path.expanduser(data.root))
    if not root.is_dir():
        raise DataError(f"data.root: must be a folder, got '{root}'; check the path, on every node")
    return root


def name_parts(found: Mapping[str, T], where: str, expected: str) -> dict[str, T]:
    """Return the parts under their final names: `val` without a `test` is renamed to `test`.

    Args:
        found: content by part, any of "train", "val", "test".
        where: the searched place, for messages.
        expected: the expected layout, for messages.

    Raises:
        DataError: no training or no test images.
    """
    parts = dict(found)
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    if "train" not in parts or "test" not in parts:
        missing = "training" if "train" not in parts else "test"
        raise DataError(f"{where}: must hold training and test images, got no {missing} images; expected {expected}")
    return parts
