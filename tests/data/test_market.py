"""Folders in the layouts of Market-1501 and DukeMTMC-reID."""

from pathlib import Path
from typing import Any, cast

import pytest
from data_makers import MARKET_NAMES, write_market

from graftpop.data import MemoryImages, Splits, load_splits
from graftpop.errors import DataError
from graftpop.ops.retrieval import GALLERY, QUERY, has_match
from graftpop.settings import DataSettings, TaskSettings

RECOGNITION = TaskSettings(name="recognition")
BOTH = QUERY | GALLERY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(root: Path, name: str = "market1501", **data: Any) -> Splits:
    settings = DataSettings.model_validate({"name": name, "root": str(root), "image_size": 16, **data})
    return load_splits(settings, seed=0, task=RECOGNITION)


def split(images: object) -> MemoryImages:
    return cast(MemoryImages, images)


def grays(images: MemoryImages) -> list[int]:
    """Return the gray of each image of a split."""
    pixels = images.pixels if images.rows is None else images.pixels[images.rows]
    return pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("inside", ["", "Market-1501-v15.09.15"])
def test_identities_cameras_and_roles_come_from_names_and_folders(tmp_path: Path, inside: str) -> None:
    write_market(tmp_path / inside)
    splits = load(tmp_path)
    test = split(splits.test)
    one, five = test.labels[0, 0], test.labels[1, 0]
    assert test.labels.tolist() == [
        [one, 1, QUERY],
        [five, 2, QUERY],
        [-1, 2, GALLERY],  # 0000, the background; -1 is left out
        [one, 1, GALLERY],
        [one, 3, GALLERY],
        [five, 2, GALLERY],
        [five, 6, GALLERY],
    ]
    assert one >= 0
    assert five >= 0
    assert grays(test) == pytest.approx([25, 26, 28, 29, 30, 31, 32], abs=2)  # JPEG; 27 is the junk
    assert splits.image_shape == (3, 16, 8)


def test_names_of_dukemtmc_are_read(tmp_path: Path) -> None:
    write_market(
        tmp_path,
        {
            "bounding_box_train": [f"000{n}_c{c}_f0046182.jpg" for n in (1, 2, 3, 4) for c in (1, 2)],
            "query": ["0005_c2_f0046985.jpg"],
            "bounding_box_test": ["0005_c5_f0062332.jpg", "0006_c2_f0070000.jpg"],
        },
    )
    labels = split(load(tmp_path, "dukemtmc", val_fraction=0.4).test).labels
    assert labels[:, 1:].tolist() == [[2, QUERY], [5, GALLERY], [2, GALLERY]]
    assert labels[0, 0] == labels[1, 0] != labels[2, 0]
    assert has_match(labels).tolist() == [True]


def test_root_may_hold_both_archives(tmp_path: Path) -> None:
    write_market(tmp_path / "Market-1501-v15.09.15")
    write_market(tmp_path / "DukeMTMC-reID", {**MARKET_NAMES, "query": MARKET_NAMES["query"][:1]})
    assert [load(tmp_path, name).test.num_images for name in ("market1501", "dukemtmc")] == [7, 6]


def test_held_out_identities_are_searched_among_each_other(tmp_path: Path) -> None:
    write_market(tmp_path)
    splits = load(tmp_path, val_fraction=0.34)
    val, train = split(splits.val), split(splits.train)
    assert val.rows is not None
    assert train.rows is not None
    held_out = val.labels[val.rows]
    assert held_out.shape == (8, 3)
    assert len(held_out[:, 0].unique()) == 2
    assert set(held_out[:, 2].tolist()) == {BOTH}
    assert has_match(held_out).all()
    assert sorted(train.labels[train.rows].tolist()) == sorted([0, 1, 2, 3] * 4)
    assert len(splits.class_names) == 4
    assert set(splits.class_names) < {"0002", "0007", "0010", "0011", "0023", "0031"}


def test_junk_is_counted(tmp_path: Path) -> None:
    write_market(tmp_path)
    assert [note for note in load(tmp_path).notes if note.endswith("1 images of identity -1 are left out")]
    names = {**MARKET_NAMES, "bounding_box_test": MARKET_NAMES["bounding_box_test"][1:]}
    write_market(tmp_path / "clean", names)
    assert load(tmp_path / "clean").notes == ()


def test_seed_chooses_the_identities_of_validation(tmp_path: Path) -> None:
    write_market(tmp_path)
    data = DataSettings(name="market1501", root=str(tmp_path), image_size=16)
    splits = [load_splits(data, seed=seed, task=RECOGNITION) for seed in (0, 0, 1, 2, 3)]
    found = [grays(split(one.val)) for one in splits]
    assert found[0] == found[1]
    assert len({tuple(images) for images in found}) > 1


def test_queries_without_a_match_are_counted(tmp_path: Path) -> None:
    write_market(tmp_path, {**MARKET_NAMES, "query": [*MARKET_NAMES["query"], "0099_c1s1_000001_00.jpg"]})
    assert any("test: 1 of 3 queries" in note for note in load(tmp_path).notes)


def test_images_are_twice_as_high_as_wide(tmp_path: Path) -> None:
    write_market(tmp_path)
    assert load(tmp_path, image_size=None).image_shape == (3, 256, 128)


def test_thumbnails_and_notes_of_file_managers_are_ignored(tmp_path: Path) -> None:
    write_market(tmp_path)
    for name in ("Thumbs.db", "readme.txt"):
        (tmp_path / "query" / name).write_text("no image")
    assert split(load(tmp_path).test).num_images == 7


@pytest.mark.parametrize(
    "name", ["person.jpg", "0002.jpg", "0002_1s1_0003.jpg", "0002_c1s1_000451_03.gif", "x0002_c1_f1.jpg"]
)
def test_file_named_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    write_market(tmp_path)
    (tmp_path / "query" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"query/\S+: must be named") as caught:
        load(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("folder", MARKET_NAMES)
def test_missing_or_empty_folder_is_refused(tmp_path: Path, folder: str) -> None:
    write_market(tmp_path)
    for file in (tmp_path / folder).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=f"{folder}: must hold images"):
        load(tmp_path)
    (tmp_path / folder).rmdir()
    with pytest.raises(DataError, match=f"got no {folder}"):
        load(tmp_path)


def test_test_identity_that_occurs_in_training_is_refused(tmp_path: Path) -> None:
    write_market(tmp_path, {**MARKET_NAMES, "query": [*MARKET_NAMES["query"], "0007_c1s1_000001_00.jpg"]})
    with pytest.raises(DataError, match=r"test .*got 1 .*: 0007;"):
        load(tmp_path)


@pytest.mark.parametrize("key", ["camera", "label"])
def test_column_of_a_table_is_refused(tmp_path: Path, key: str) -> None:
    write_market(tmp_path)
    with pytest.raises(DataError, match=rf"^data\.{key}: .*got 'x' for market1501"):
        load(tmp_path, **{key: "x"})
