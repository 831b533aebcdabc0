"""CIFAR's pickled batches: only what the published files hold is accepted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import write_pickle

from graftpop.data.cifar_pickles import read_batches, read_class_names
from graftpop.errors import DataError

BATCH: dict[str, Any] = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}


def test_batch_has_images_and_labels(tmp_path: Path) -> None:
    pixels, labels = read_batches(tmp_path, {"batch": write_pickle(tmp_path / "batch", BATCH)}, "labels")
    assert (pixels.shape, pixels.dtype, labels.tolist()) == ((2, 32, 32, 3), np.uint8, [0, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [0, True]},
        {"labels": [0, 1.0]},
        {"labels": [0]},
        {"data": np.zeros((2, 3072), np.float32)},
        {"data": np.zeros((2, 3071), np.uint8)},
    ],
    ids=["truth value", "float label", "too few labels", "float pixels", "narrow"],
)
def test_batch_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    md5 = write_pickle(tmp_path / "batch", BATCH | change)
    with pytest.raises(DataError, match="fetch it again"):
        read_batches(tmp_path, {"batch": md5}, "labels")


@pytest.mark.parametrize("names", [[], "cat", ["cat", 1], None])
def test_class_names_are_a_list_of_names(tmp_path: Path, names: Any) -> None:
    md5 = write_pickle(tmp_path / "batch", {"names": names})
    with pytest.raises(DataError, match="fetch it again"):
        read_class_names(tmp_path, "batch", md5, "names")
