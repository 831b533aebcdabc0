"""Stratified choice, and the splits of a data set, on the digits."""

from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from graftpop.data import DATASETS, MemoryImages, Splits, load_splits
from graftpop.data.stratified_split import stratified_rows
from graftpop.errors import DataError
from graftpop.settings import DataSettings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digits(seed: int = 0, **settings: object) -> Splits:
    return load_splits(DataSettings.model_validate({"name": "digits", **settings}), seed=seed)


def rows(split: object) -> set[int]:
    chosen = cast(MemoryImages, split).rows
    assert chosen is not None
    assert len(chosen.unique()) == len(chosen)
    return set(chosen.tolist())


def class_counts(split: object) -> Counter[int]:
    images = cast(MemoryImages, split)
    return Counter(images.labels.tolist() if images.rows is None else images.labels[images.rows].tolist())


@settings(deadline=None, derandomize=True)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 2**63))
def test_a_stratified_choice_gives_each_class_its_share(labels: list[int], share: float, seed: int) -> None:
    count = round(share * len(labels))
    everything = torch.tensor(labels)
    chosen, others = stratified_rows(everything, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == count
    assert sorted(chosen.tolist() + others.tolist()) == list(range(len(labels)))
    assert chosen.tolist() == sorted(chosen.tolist())
    for label, size in Counter(labels).items():
        assert abs(int((everything[chosen] == label).sum()) - size * count / len(labels)) < 1


def test_a_stratified_choice_is_as_likely_to_take_any_row() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    generator = torch.Generator().manual_seed(0)
    taken = sum(np.bincount(stratified_rows(labels, 3, generator)[0], minlength=10) for _ in range(4000))
    assert np.all(np.abs(taken / 4000 - 0.3) < 0.03)  # four standard errors


def test_digits_are_the_pixels_of_scikit_learn() -> None:
    splits = digits()
    train, test = cast(MemoryImages, splits.train), cast(MemoryImages, splits.test)
    pixels = torch.cat((train.pixels, test.pixels)).numpy()
    assert np.array_equal(pixels[:, 0], pixels[:, 1])
    assert np.array_equal(pixels[:, 0], pixels[:, 2])
    ours = sorted(image.tobytes() for image in np.rint(pixels[:, 0] / (255 / 16)).astype(np.uint8))
    assert ours == sorted(image.tobytes() for image in load_digits().images.astype(np.uint8))
    assert splits.class_names == tuple("0123456789")
    assert splits.image_shape == (3, 8, 8)


def test_digits_shift_by_one_pixel_and_are_not_mirrored() -> None:
    splits = digits()
    pixels = cast(MemoryImages, splits.train).pixels.numpy() / 255
    assert (splits.recipe.crop_padding, splits.recipe.flip) == (1, False)
    np.testing.assert_allclose(splits.recipe.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(splits.recipe.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_the_test_set_of_digits_is_a_fifth_whatever_the_seed() -> None:
    first, other = digits(seed=0).test, digits(seed=1).test
    assert first.num_images == other.num_images == 359
    assert torch.equal(cast(MemoryImages, first).pixels, cast(MemoryImages, other).pixels)
    assert all(34 <= count <= 38 for count in class_counts(first).values())


def test_training_and_validation_are_disjoint_complete_and_stratified() -> None:
    splits = digits(val_fraction=0.25)
    train, val = rows(splits.train), rows(splits.val)
    assert not train & val
    assert train | val == set(range(1438))
    assert len(val) == splits.val.num_images == round(0.25 * 1438)
    of_train, of_val = class_counts(splits.train), class_counts(splits.val)
    assert all(abs(of_val[label] - 0.25 * (of_val[label] + of_train[label])) <= 1 for label in range(10))


def test_a_size_has_no_place_where_images_have_one() -> None:
    with pytest.raises(
        DataError,
        match=r"^data\.image_size: is for data\.name parquet or folder, got 16 where "
        r"digits has images of one size; leave it out$",
    ):
        digits(image_size=16)


def test_the_cut_is_a_function_of_the_seed() -> None:
    assert rows(digits(seed=5).val) == rows(digits(seed=5).val)
    assert rows(digits(seed=5).val) != rows(digits(seed=6).val)


def test_a_limit_counts_validation_images_and_is_stratified() -> None:
    splits = digits(max_train_images=100, val_fraction=0.2)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (80, 20, 359)
    together = class_counts(splits.train) + class_counts(splits.val)
    assert all(9 <= together[label] <= 11 for label in range(10))
    assert rows(splits.train) | rows(splits.val) != set(range(100))


def test_there_is_at_least_one_validation_image() -> None:
    splits = digits(max_train_images=3, val_fraction=0.01)
    assert (splits.train.num_images, splits.val.num_images) == (2, 1)


def test_training_and_validation_share_one_memory_map() -> None:
    splits = digits()
    train, val = cast(MemoryImages, splits.train), cast(MemoryImages, splits.val)
    assert train.pixels.data_ptr() == val.pixels.data_ptr()


def test_settings_replace_the_recipe_of_the_data_set() -> None:
    recipe = digits(crop_padding=3, flip=True).recipe
    assert (recipe.crop_padding, recipe.flip) == (3, True)
    assert digits(crop_padding=0).recipe.crop_padding == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_train_images": 1439},
            r"data\.max_train_images: must be at most the number of training images, 1438, got 1439",
        ),
        (
            {"max_train_images": 2},
            r"data: at least 2 images must be left to train on, got 2 and 1 of them for validation; raise",
        ),
        ({"crop_padding": 9}, r"data\.crop_padding: must be at most the images' side, 8, got 9"),
        ({"label": "label"}, r"data\.label: names a column of Parquet files, got 'label' where digits is not"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        digits(**settings)


def test_an_unknown_data_set_lists_the_choices() -> None:
    with pytest.raises(DataError, match=r"data\.name: unknown name 'cifar'; choose from digits, cifar10, .*did you"):
        load_splits(DataSettings(name="cifar"), seed=0)


@pytest.mark.parametrize("name", ["parquet", "folder"])
def test_data_sets_of_the_user_need_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.root: data\.name '{name}' needs the folder of the images, got none"):
        load_splits(DataSettings(name=name), seed=0)
    with pytest.raises(DataError, match=r"data\.root: must be a folder, got '.*absent'"):
        load_splits(DataSettings(name=name, root=str(tmp_path / "absent")), seed=0)


def test_every_data_set_has_a_lower_case_name() -> None:
    assert sorted(DATASETS) == ["cifar10", "cifar100", "digits", "folder", "parquet"]
