"""Image tables in Parquet for recognition."""

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from data_makers import png, random_pixels, write_class_folders, write_parquet

from graftpop.data import MemoryImages, Splits, load_splits
from graftpop.errors import DataError
from graftpop.ops.retrieval import GALLERY, QUERY
from graftpop.settings import DataSettings, TaskSettings

RECOGNITION = TaskSettings(name="recognition")
BOTH = QUERY | GALLERY
PIXELS = random_pixels(16, 8, 12)
IMAGES = [png(image) for image in PIXELS]
TRAIN = [number // 4 for number in range(16)]
TEST = [10 + number // 4 for number in range(16)]
CAMERAS = [number % 4 for number in range(16)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


def load(root: Path, task: TaskSettings = RECOGNITION, **data: Any) -> Splits:
    settings = DataSettings.model_validate({"name": "parquet", "root": str(root), "val_fraction": 0.5} | data)
    return load_splits(settings, seed=0, task=task)


def write(root: Path, train: list[Any] = TRAIN, test: list[Any] = TEST, **columns: Any) -> None:
    for part, labels in (("train", train), ("test", test)):
        write_parquet(root / f"{part}.parquet", IMAGES, {"label": labels, **columns})


def labels(images: object) -> list[list[int]]:
    kept = cast(MemoryImages, images)
    rows: list[list[int]] = (kept.labels if kept.rows is None else kept.labels[kept.rows]).tolist()
    return rows


@pytest.mark.parametrize("camera", [None, "camera", "drawer"])
def test_camera_column_is_camera_or_the_named_one(root: Path, camera: str | None) -> None:
    write(root, **{camera or "camera": CAMERAS})
    test = labels(load(root, camera=camera).test)
    assert [(camera, role) for _, camera, role in test] == [(camera, BOTH) for camera in CAMERAS]
    assert Counter(identity for identity, _, _ in test) == dict.fromkeys(range(4, 8), 4)


def test_without_a_camera_column_every_image_has_its_own_camera(root: Path) -> None:
    write(root)
    splits = load(root)
    cameras = [camera for part in (splits.val, splits.test) for _, camera, _ in labels(part)]
    assert len(set(cameras)) == len(cameras)
    assert splits.notes == ()


def test_identities_and_cameras_may_be_text(root: Path) -> None:
    write(root, [f"person {n}" for n in TRAIN], [f"person {n}" for n in TEST], camera=[f"door {n}" for n in CAMERAS])
    splits = load(root)
    test = labels(splits.test)
    assert [camera for _, camera, _ in test] == CAMERAS
    assert sorted(Counter(identity for identity, _, _ in test).values()) == [4] * 4
    assert set(splits.class_names) < {"person 0", "person 1", "person 2", "person 3"}
    assert len(splits.class_names) == 2


def test_training_identities_are_numbered_from_zero(root: Path) -> None:
    write(root, [100 - number for number in TRAIN])
    splits = load(root)
    assert Counter(labels(splits.train)) == {0: 4, 1: 4}
    train = cast(MemoryImages, splits.train)
    assert train.rows is not None
    pixels = train.pixels[train.rows].permute(0, 2, 3, 1).numpy()
    assert all(any(np.array_equal(image, original) for original in PIXELS) for image in pixels)


def test_val_part_replaces_held_out_identities(root: Path) -> None:
    write(root)
    write_parquet(root / "val.parquet", IMAGES, {"label": [20 + number for number in TRAIN]})
    splits = load(root)
    assert splits.train.num_images == splits.val.num_images == 16
    assert len(splits.class_names) == 4
    limited = load(root, max_train_images=11)  # two whole identities of four images
    assert (limited.train.num_images, limited.val.num_images, len(limited.class_names)) == (8, 16, 2)


def test_more_images_than_there_are_are_refused(root: Path) -> None:
    """As for classification."""
    write(root)
    assert load(root, max_train_images=16).train.num_images == load(root).train.num_images
    with pytest.raises(DataError, match=r"^data\.max_train_images: .* 16, got 17; "):
        load(root, max_train_images=17)


@pytest.mark.parametrize("part", ["val", "test"])
def test_identity_that_occurs_in_training_is_refused(root: Path, part: str) -> None:
    write(root)
    write_parquet(root / f"{part}.parquet", IMAGES, {"label": [3, *TEST[1:]]})
    with pytest.raises(DataError, match=rf"{part} .*got 1 .*: 3;"):
        load(root)


def test_queries_without_a_match_are_counted(root: Path) -> None:
    write(root, camera=CAMERAS)
    write_parquet(root / "test.parquet", IMAGES, {"label": [*TEST[:-1], 99], "camera": CAMERAS})
    assert [note for note in load(root).notes if note.startswith("test: 1 of 16 queries")]


def test_identities_seen_by_one_camera_are_refused(root: Path) -> None:
    write(root, camera=[0] * 16)
    with pytest.raises(DataError, match=r"query of val .*none for 8 queries"):
        load(root)


@pytest.mark.parametrize(("camera", "parts"), [("cam", ("did you mean 'camera'", "'label' (int64)")), ("image", ())])
def test_column_that_is_no_camera_is_refused(root: Path, camera: str, parts: tuple[str, ...]) -> None:
    write(root, camera=CAMERAS)
    with pytest.raises(DataError, match=rf"^data\.camera: .*got '{camera}'") as caught:
        load(root, camera=camera)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_camera_has_no_effect_on_classification(root: Path) -> None:
    write(root, camera=CAMERAS)
    with pytest.raises(DataError, match=r"^data\.camera: .*got 'camera' for parquet"):
        load(root, TaskSettings(), label="label", camera="camera")
    for part in ("train", "test"):
        write_class_folders(root / "folders" / part, {"one": PIXELS[:4], "two": PIXELS[4:8]})
    with pytest.raises(DataError, match=r"^data\.camera: .*got 'camera' for folder"):
        load(root / "folders", TaskSettings(), name="folder", camera="camera")


def test_data_sets_of_classification_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.name: .*'digits'.*omniglot, parquet, market1501, dukemtmc"):
        load(root, name="digits")


def test_batches_of_the_triplet_loss_have_k_images_of_each_identity(root: Path) -> None:
    write(root)
    task = RECOGNITION.model_copy(update={"triplet_weight": 1.0, "images_per_identity": 3})
    splits = load(root, task)
    for seed in range(3):
        for images, targets in splits.train.training_batches(6, seed, torch.device("cpu")):
            assert images.shape == (6, 3, 8, 12)
            assert Counter(targets.tolist()) == {0: 3, 1: 3}
    with pytest.raises(DataError, match=r"^training\.batch_size: .* 6 .*got 9"):
        next(splits.train.training_batches(9, 0, torch.device("cpu")))
