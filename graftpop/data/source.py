"""What a data set is before it is decoded: where it was found, and then what it holds.

Finding is cheap and every process does it; opening and decoding is done by one process of a node (`cache.py`).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from graftpop.data.decoding import Block
from graftpop.errors import DataError
from graftpop.settings import DataSettings

__all__ = ["Colour", "Contents", "Part", "root_folder", "name_parts", "Source"]

T = TypeVar("T")
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """The training, validation or test images."""

    num_images: int
    blocks: Iterator[Block]  # decodes them, in order; nothing is read before the first block


@dataclass(frozen=True)
class Contents:
    """A data set of images of one size, opened and checked, but not decoded."""

    class_names: tuple[str, ...]
    height: int
    width: int
    parts: Mapping[str, Part]  # "train", "test" and possibly "val"


@dataclass(frozen=True)
class Source:
    """A data set of images of one size, where it was found."""

    name: str
    files: tuple[Path, ...]  # all that its contents depend on
    open: Callable[[], Contents]
    flip: bool  # whether its mirrored images are as good
    mean_std: tuple[Colour, Colour] | None = None  # None: those of the training images
    label: str | None = None  # Parquet: the label column
    image_size: int | None = None  # the side that images are brought to; None: they have one size


def root_folder(data: DataSettings) -> Path:
    """Return the folder `data.root`, or raise a DataError."""
    if data.root is None:
        raise DataError(f"data.root: data.name '{data.name}' needs the folder of the images, got none; set data.root")
    root = Path(os.path.expanduser(data.root))
    if not root.is_dir():
        raise DataError(f"data.root: must be a folder, got '{root}'; check the path, on every node")
    return root


def name_parts(found: Mapping[str, T], where: str, expected: str) -> dict[str, T]:
    """Return the parts under their final names: a lone `val` is the test set.

    Args:
        found: any of "train", "val", "test".
        where: what was searched, for errors.
        expected: what each part looks like, for errors.
    """
    parts = dict(found)
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    if "train" not in parts or "test" not in parts:
        missing = "training" if "train" not in parts else "test"
        raise DataError(f"{where}: must hold training and test images, got no {missing} images; expected {expected}")
    return parts
