"""Tiny data sets in every layout, made of random pixels."""

import hashlib
import io
import itertools
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

Pixels = NDArray[np.uint8]


def random_pixels(num_images: int, height: int = 32, width: int = 32, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (num_images, height, width, 3), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_parquet(
    file: Path,
    images: Sequence[bytes | None],
    columns: dict[str, Any],
    *,
    image: str = "image",
    class_names: dict[str, list[str]] | None = None,
) -> None:
    """Write a table as the hubs do, in row groups of 7; `class_names` goes into the hub's metadata."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    cells = pyarrow.array([{"bytes": encoded, "path": "x.png"} for encoded in images], kind)
    table = pyarrow.table({image: cells, **columns})
    if class_names is not None:
        features = {image: {"_type": "Image"}} | {
            name: {"_type": "ClassLabel", "names": names} for name, names in class_names.items()
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file, row_group_size=7)


def write_class_folders(part: Path, images: Mapping[str, Iterable[Pixels]]) -> None:
    for name, of_class in images.items():
        (part / name).mkdir(parents=True)
        for number, pixels in enumerate(of_class):
            (part / name / f"{number:03}.png").write_bytes(png(pixels))


def write_cifar10_batches(folder: Path, pixels: Pixels, labels: list[int]) -> dict[str, Any]:
    """Write the published layout: five training batches of the first images, a test batch of the last sixth.

    Returns:
        the attributes of torchvision's class that hold the MD5 sums of these files.
    """
    folder.mkdir(parents=True)
    size = len(labels) // 6
    sums = {}
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        rows = slice(number * size, (number + 1) * size)
        flat = pixels[rows].transpose(0, 3, 1, 2).reshape(size, -1)
        sums[name] = write_pickle(folder / name, {"data": flat, "labels": labels[rows]})
    meta_sum = write_pickle(folder / "batches.meta", {"label_names": ["cat", "dog", "frog"]})
    return {
        "train_list": [[name, md5] for name, md5 in sums.items() if name != "test_batch"],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": meta_sum},
    }


def write_pickle(file: Path, content: dict[str, Any]) -> str:
    """Write a pickle and return its MD5."""
    file.write_bytes(pickle.dumps(content))
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


MARKET_NAMES = {
    "bounding_box_train": [
        f"{identity:04}_c{camera}s1_{camera:06}_0{box}.jpg"
        for identity in (2, 7, 10, 11, 23, 31)
        for camera in (1, 3)
        for box in (0, 1)
    ],
    "query": ["0001_c1s1_000001_00.jpg", "0005_c2s1_000002_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c2s1_000151_01.jpg",
        "0001_c1s1_000001_01.jpg",
        "0001_c3s2_000009_00.jpg",
        "0005_c2s1_000012_00.jpg",
        "0005_c6s3_000013_00.jpg",
    ],
}
"""Names of files in the layout of Market-1501, by folder: six training identities, and two others."""


def write_market(root: Path, names: Mapping[str, Sequence[str]] = MARKET_NAMES) -> None:
    """Write small images under these names, each of one gray that differs from the others."""
    gray = itertools.count(1)
    for folder, files in names.items():
        (root / folder).mkdir(parents=True)
        for name in files:
            Image.new("RGB", (8, 16), (next(gray),) * 3).save(root / folder / name)
