"""Omniglot: its place, its columns and its drawers."""

from collections import Counter
from pathlib import Path
from typing import cast

import pytest
from data_makers import png, random_pixels, write_parquet

from graftpop.data import MemoryImages, Splits, load_splits
from graftpop.errors import DataError
from graftpop.settings import DataSettings, TaskSettings

IMAGES = [png(image) for image in random_pixels(20, 21, 21)]
DRAWERS = [1 + number % 5 for number in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(folder: Path) -> None:
    """Write four characters by five drawers to train on, and four others to test on."""
    for part, first in (("train", 0), ("test", 4)):
        columns = {"label": [first + number // 5 for number in range(20)], "alphabet": [0] * 20, "drawer": DRAWERS}
        names = {"label": [f"character {number}" for number in range(8)]}
        write_parquet(folder / f"{part}-00000-of-00001.parquet", IMAGES, columns, image="img", class_names=names)


def load(**data: object) -> Splits:
    settings = DataSettings.model_validate({"name": "omniglot", "val_fraction": 0.5, **data})
    return load_splits(settings, seed=0, task=TaskSettings(name="recognition"))


@pytest.mark.parametrize("by_root", [True, False])
def test_drawers_take_the_place_of_cameras(tmp_path: Path, by_root: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "omniglot")
    if not by_root:
        monkeypatch.setenv("GRAFTPOP_DATA", str(tmp_path))
    splits = load(root=str(tmp_path / "omniglot") if by_root else None)
    test = cast(MemoryImages, splits.test).labels
    assert [drawer + 1 for drawer in test[:, 1].tolist()] == DRAWERS
    assert Counter(test[:, 0].tolist()) == dict.fromkeys(range(4, 8), 5)
    assert splits.image_shape == (3, 21, 21)
    assert not splits.recipe.flip


def test_images_are_scaled(tmp_path: Path) -> None:
    write(tmp_path)
    assert load(root=str(tmp_path), image_size=7).image_shape == (3, 7, 7)


def test_other_column_can_be_the_camera(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="must have a match"):  # all of one alphabet
        load(root=str(tmp_path), camera="alphabet")


@pytest.mark.parametrize("is_set", [True, False])
def test_missing_folder_is_refused(tmp_path: Path, is_set: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_set:
        monkeypatch.setenv("GRAFTPOP_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("GRAFTPOP_DATA", raising=False)
    with pytest.raises(DataError, match=r"omniglot needs .*data\.root and GRAFTPOP_DATA") as caught:
        load()
    assert str(caught.value).count("without omniglot/") == is_set
