"""Reader of the published CIFAR batches: pickles that may hold only numbers, text and arrays of bytes.

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
"""Names that a pickled array needs; all other classes and functions are refused."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def read_batches(folder: Path, md5_sums: Mapping[str, str], label: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels, uint8 (N, 32, 32, 3), and labels, int64 (N,), of some batches.

    Args:
        folder: folder of the files.
        md5_sums: published MD5 by file name, compared before a file is unpickled.
        label: key of the labels in a batch.

    Raises:
        DataError: a file is absent, or differs from the published one.
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
    """Return the class names, stored under `key`; other arguments and errors as in `read_batches`."""
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
    """Return the dict in a pickled batch.

    Args:
        content: the pickle.
        folder: folder of the batch, for messages.

    Raises:
        DataError: it is no dict, is damaged, or holds other classes or functions than ARRAYS.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # pickled by Python 2
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _wrong(folder) from error
    if not isinstance(batch, dict):
        raise _wrong(folder)
    return batch


def _wrong(folder: Path) -> DataError:
    return DataError(
        f"{folder}: all files must be present with their published MD5, got a missing or different file; remove the "
        "folder and fetch it again"
    )
