"""Cache of decoded data sets: decoded once per node, then shared by all peers and trials there.

Every process maps the same file of pixels, so a node holds one copy of them, in its page cache. A folder of the cache
gets its name only when it is complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray
from torch import Tensor

from graftpop.data.decoding import find_damage
from graftpop.data.source import Color, Contents, Part, Source
from graftpop.errors import DataError

__all__ = [
    "cache_folder",
    "damaged_files",
    "Decoded",
    "decoded",
    "is_stored",
    "LOCK_TIMEOUT_S",
    "locked",
    "machine_bytes",
]

FORMAT_VERSION: Final = 2  # part of the fingerprint: raise it when the meaning of the files changes
LOCK_TIMEOUT_S: Final = 600.0
FREE_BYTES: Final = 2**30  # decoded from files of any size
MAX_INFLATION: Final = 4096  # decoded bytes per byte of the files, above FREE_BYTES; photographs have about 10


@dataclass(frozen=True)
class Decoded:
    """A decoded data set, mapped into memory."""

    class_names: tuple[str, ...]
    mean: Color  # of the training pixels in [0, 1]
    std: Color
    parts: Mapping[str, tuple[Tensor, Tensor]]  # pixels uint8 (N, 3, H, W), channels last; labels int64 (N,) or (N, 3)
    notes: tuple[str, ...] = ()  # lines for the user, see `Contents`


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/graftpop`, or `~/.cache/graftpop`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graftpop"


def machine_bytes() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_stored(source: Source) -> bool:
    """Return whether the cache holds the current state of a data set."""
    return _stored(_folder_of(source)) is not None


def decoded(source: Source, *, timeout_s: float = LOCK_TIMEOUT_S) -> Decoded:
    """Return a data set from the cache, after decoding it there if needed.

    Args:
        source: the data set.
        timeout_s: seconds to wait for another process that is decoding it.

    Raises:
        DataError: the data cannot be decoded, the cache cannot be written, or the wait timed out.
    """
    folder = _folder_of(source)
    stored = _stored(folder)
    if stored is None:
        with locked(folder.with_name(folder.name + ".lock"), f"decode {source.name}", timeout_s):
            stored = _stored(folder)  # another process may have decoded it meanwhile
            if stored is None:
                _store(source, folder)
                stored = _stored(folder)
    if stored is None:
        raise DataError(f"cache: {folder} cannot be read right after it was written; check its disk")
    return stored


def damaged_files(files: Sequence[str], name: str) -> dict[str, str]:
    """Return the error message of each damaged image file, by its path; every file is decoded once per node.

    Args:
        files: paths of the image files.
        name: name of the data set.

    Raises:
        DataError: an image is whole, but cannot be used; or the cache cannot be written.
    """
    key = hashlib.sha256(f"{FORMAT_VERSION}".encode())
    for file in files:
        status = os.stat(file)
        key.update(
            f"{os.path.abspath(file)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    record = cache_folder() / "checked" / f"{name}-{key.hexdigest()[:24]}.json"
    found = _checked(record, files)
    if found is None:
        with locked(record.with_suffix(".lock"), f"check the images of {name}"):
            found = _checked(record, files)  # another process may have checked them meanwhile
            if found is None:
                damaged = find_damage(files)
                try:
                    partial = record.with_suffix(".partial")
                    partial.write_text(json.dumps(damaged))
                    partial.rename(record)
                except OSError as error:
                    raise _unwritable(record.parent, error) from error
                found = {files[row]: message for row, message in damaged.items()}
    return found


def _checked(record: Path, files: Sequence[str]) -> dict[str, str] | None:
    """Return the content of a record of damaged files; None if it is absent or left by a failing disk."""
    try:
        return {files[int(row)]: str(message) for row, message in json.loads(record.read_text()).items()}
    except (OSError, ValueError, AttributeError, IndexError):
        return None


@contextmanager
def locked(lock: Path, purpose: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold a lock file of the cache inside the block, so that one process of the node does the work for all.

    Args:
        lock: path of the lock file.
        purpose: action of the holder, a verb phrase for messages (`decode cifar10`).
        timeout_s: seconds to wait for another holder.

    Raises:
        DataError: the wait timed out, or the folder cannot be written.
    """
    holder = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        holder.acquire(timeout=timeout_s)
    except Timeout as error:
        raise DataError(
            f"cache: waited {timeout_s:g} s for {lock}, held by another process of this node to {purpose}; "
            "wait for that process to end, or end it, then start again"
        ) from error
    except OSError as error:
        raise _unwritable(lock.parent, error) from error
    try:
        yield
    finally:
        holder.release()


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cache: {folder} must be a writable folder, got {error.strerror or error}; "
        "set XDG_CACHE_HOME to a folder with room for the decoded images"
    )


def _folder_of(source: Source) -> Path:
    files = []
    for file in source.files:
        status = file.stat()
        files.append((str(file.resolve()), status.st_size, status.st_mtime_ns))
    parts = [FORMAT_VERSION, source.name, source.label, source.image_size, files]
    if source.has_identities:
        parts.append(source.camera)
    if source.version is not None:
        parts.append(source.version)
    key = json.dumps(parts)
    return cache_folder() / "decoded" / f"{source.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _stored(folder: Path) -> Decoded | None:
    """Return the content of a cache folder; None if it is absent or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        parts = {
            part: (_mapped(folder / f"{part}_pixels.npy").permute(0, 3, 1, 2), _mapped(folder / f"{part}_labels.npy"))
            for part in meta["parts"]
        }
        return Decoded(
            tuple(meta["class_names"]), _color(meta["mean"]), _color(meta["std"]), parts, tuple(meta["notes"])
        )
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _mapped(file: Path) -> Tensor:
    # Copy on write: torch warns about read-only arrays. Nothing writes to them, so nothing is copied.
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _color(values: Any) -> Color:
    red, green, blue = values
    return red, green, blue


def _store(source: Source, folder: Path) -> None:
    contents = source.open()
    partial = folder.with_name(folder.name + ".partial")
    try:
        for old in (partial, folder):  # left by a killed process or a failing disk
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir(parents=True)
        _check_room(partial, source, contents)
        counts = {part: _store_part(partial, part, contents) for part in contents.parts}
        mean, std = _mean_std(counts["train"])
        meta = {
            "data_set": source.name,
            "class_names": contents.class_names,
            "notes": contents.notes,
            "mean": mean,
            "std": std,
            "parts": {part: contents.parts[part].num_images for part in contents.parts},
        }
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        partial.rename(folder)
    except OSError as error:  # readers raise DataError for theirs: this one is from writing the cache
        raise _unwritable(folder.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_room(folder: Path, source: Source, contents: Contents) -> None:
    """Check that disk and memory have room for the pixels: a small file can decode to very many."""
    num_images = sum(part.num_images for part in contents.parts.values())
    needed, free = num_images * contents.height * contents.width * 3, shutil.disk_usage(folder).free
    takes = (
        f"cache: {source.name} decoded takes {needed} bytes, {num_images} images of {contents.width} x "
        f"{contents.height}, got"
    )
    if needed > free:
        raise DataError(
            f"{takes} {free} free in {folder.parent}; set XDG_CACHE_HOME to a folder with room, or use smaller images"
        )
    if needed > machine_bytes():
        raise DataError(f"{takes} {machine_bytes()} bytes of memory; use smaller images, see data.image_size")
    num_bytes = sum(file.stat().st_size for file in source.files)
    if source.files and needed > max(FREE_BYTES, MAX_INFLATION * num_bytes):
        raise DataError(
            f"{takes} files of {num_bytes} bytes, which may decode to {FREE_BYTES} bytes or {MAX_INFLATION} times "
            "their size; remove repeated or empty images, or set data.image_size to scale them"
        )


def _store_part(folder: Path, name: str, contents: Contents) -> NDArray[np.int64]:
    """Write the pixels and labels of a part, and return the histogram of its pixel values, (3, 256)."""
    part: Part = contents.parts[name]
    shape = (part.num_images, contents.height, contents.width, 3)
    counts, labels = np.zeros((3, 256), np.int64), []
    with open(folder / f"{name}_pixels.npy", "wb") as file:
        # Written instead of mapped: a full disk then raises an error, where a map would kill the process.
        write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block_pixels, block_labels in part.blocks:
            file.write(np.ascontiguousarray(block_pixels).data)
            labels.append(block_labels)
            counts += [np.bincount(block_pixels[..., color].ravel(), minlength=256) for color in range(3)]
    if sum(map(len, labels)) != part.num_images:
        raise DataError(
            f"cache: the {name} part must have {part.num_images} images, got {sum(map(len, labels))}; "
            "its files changed while they were read, start again"
        )
    np.save(folder / f"{name}_labels.npy", np.concatenate(labels))
    return counts


def _mean_std(counts: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per color, for pixels in [0, 1].

    A constant color has deviation 1.

    Args:
        counts: int64 (3, 256), histogram of the pixel values.
    """
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(counts.max(axis=1) == counts.sum(axis=1), 1.0, std).tolist()
