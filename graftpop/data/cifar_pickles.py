"""The batches of CIFAR as they were published: pickles, of which only numbers, texts and arrays of bytes are admitted.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Python version".
"""

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graftpop.errors import DataError

__all__ = ["read_batches", "read_class_names", "SIDE", "unpickled"]

SIDE: Final = 32
ARRAYS: Final = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
"""What an array is pickled by: nothing else can be made, and nothing called."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return super().find_class(module, name)


def read_batches(folder: Path, md5_sums: Mapping[str, str], label: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels (N, 32, 32, 3) and labels (N,) of some batches.

    Args:
        folder: of the batches.
        md5_sums: the published sum of each file, compared before it is unpickled.
        label: the key of the labels.

    Raises:
        DataError: a file is absent, or another one than was published.
    """
    pixels, labels = [], []
    for name, md5 in md5_sums.items():
        batch = _unpickled(folder, name, md5)
        flat, numbers = batch.get("data"), batch.get(label)
        if not (
            isinstance(flat, np.ndarray)
            and flat.dtype == np.uint8
            and isinstance(numbers, list)
            and flat.shape == (len(numbers), 3 * SIDE * SIDE)
            and all(type(number) is int for number in numbers)
        ):
            raise _wrong(folder)
        pixels.append(flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        labels.append(np.array(numbers, np.int64))
    return np.concatenate(pixels), np.concatenate(labels)


def read_class_names(folder: Path, name: str, md5: str, key: str) -> Sequence[str]:
    """Return the names of the classes; arguments and errors as `read_batches`."""
    names = _unpickled(folder, name, md5).get(key)
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise _wrong(folder)
    return names


def _unpickled(folder: Path, name: str, md5: str) -> dict[str, Any]:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise _wrong(folder) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise _wrong(folder)
    return unpickled(content, folder)


def unpickled(content: bytes, folder: Path) -> dict[str, Any]:
    """Return the dict in a batch.

    Raises:
        DataError: it is something else, or holds what is not admitted.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # of Python 2
    except Exception as error:  # of a damaged pickle nearly anything is raised
        raise _wrong(folder) from error
    if not isinstance(batch, dict):
        raise _wrong(folder)
    return batch


def _wrong(folder: Path) -> DataError:
    return DataError(
        f"{folder}: every file must be there and have its published MD5, got one that has not; remove the "
        "folder and fetch it again"
    )
