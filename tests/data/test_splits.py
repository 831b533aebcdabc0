"""Stratified splits, and the splits of a data set, on the digits and on a folder of images."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from data_makers import random_pixels, write_class_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from graftpop.data import DATASETS, MemoryImages, Splits, load_splits
from graftpop.data.stratified_split import stratified_rows
from graftpop.data.streamed import StreamedImages
from graftpop.errors import DataError
from graftpop.settings import DataSettings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digits(seed: int = 0, **settings: object) -> Splits:
    return load_splits(DataSettings.model_validate({"name": "digits", **settings}), seed=seed)


def rows(split: object) -> set[int]:
    indices = cast(MemoryImages, split).rows
    assert indices is not None
    assert len(indices.unique()) == len(indices)
    return set(indices.tolist())


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def labels_of(splits: Splits) -> list[torch.Tensor]:
    """Return the labels of the training, validation and test images, in the order of evaluation."""
    every = (splits.train, splits.val, splits.test)
    return [torch.cat([labels for _, labels in split.evaluation_batches(64, torch.device("cpu"))]) for split in every]


def class_counts(split: object) -> Counter[int]:
    images = cast(MemoryImages, split)
    return Counter(images.labels.tolist() if images.rows is None else images.labels[images.rows].tolist())


@settings(deadline=None, derandomize=True)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 2**63))
def test_stratified_split_gives_each_class_its_share(labels: list[int], share: float, seed: int) -> None:
    count = round(share * len(labels))
    everything = torch.tensor(labels)
    chosen, others = stratified_rows(everything, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == count
    assert sorted(chosen.tolist() + others.tolist()) == list(range(len(labels)))
    assert chosen.tolist() == sorted(chosen.tolist())
    for label, size in Counter(labels).items():
        assert abs(int((everything[chosen] == label).sum()) - size * count / len(labels)) < 1


def test_stratified_split_takes_every_row_equally_often() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    generator = torch.Generator().manual_seed(0)
    taken = sum(np.bincount(stratified_rows(labels, 3, generator)[0], minlength=10) for _ in range(4000))
    assert np.all(np.abs(taken / 4000 - 0.3) < 0.03)  # four standard errors


def test_stratified_split_takes_every_pair_equally_often() -> None:
    # Without the shuffle only neighbors at equal distances would be taken together.
    labels = torch.zeros(6, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    pairs = Counter(tuple(stratified_rows(labels, 2, generator)[0].tolist()) for _ in range(3000))
    assert len(pairs) == 15
    assert all(abs(count / 3000 - 1 / 15) < 0.02 for count in pairs.values())  # four standard errors


def test_validation_images_are_spread_at_random_over_their_class() -> None:
    labels = cast(MemoryImages, digits().train).labels
    zeros = (labels == 0).nonzero().squeeze(1).tolist()
    val = sorted(rows(digits(val_fraction=0.25).val) & set(zeros))
    places = [zeros.index(row) for row in val]
    gaps = {later - earlier for earlier, later in pairwise(places)}
    assert len(gaps) > 4  # equal distances of 4 without a shuffle


@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16)])
def test_crop_padding_follows_the_shorter_side(height: int, width: int, tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_class_folders(tmp_path / "images" / part, {"cat": random_pixels(4, height, width)})

    def padding(**settings: Any) -> int:
        data = DataSettings(name="folder", root=str(tmp_path / "images"), **settings)
        return load_splits(data, seed=0).recipe.crop_padding

    assert padding() == 2
    assert padding(crop_padding=16) == 16
    with pytest.raises(DataError, match=r"^data\.crop_padding: .* 16, got 17"):
        padding(crop_padding=17)


def test_digits_have_the_pixels_of_scikit_learn() -> None:
    splits = digits()
    train, test = cast(MemoryImages, splits.train), cast(MemoryImages, splits.test)
    pixels = torch.cat((train.pixels, test.pixels)).numpy()
    assert np.array_equal(pixels[:, 0], pixels[:, 1])
    assert np.array_equal(pixels[:, 0], pixels[:, 2])
    images = sorted(image.tobytes() for image in np.rint(pixels[:, 0] / (255 / 16)).astype(np.uint8))
    assert images == sorted(image.tobytes() for image in load_digits().images.astype(np.uint8))
    assert splits.class_names == tuple("0123456789")
    assert splits.image_shape == (3, 8, 8)


def test_digits_are_shifted_by_one_pixel_and_not_mirrored() -> None:
    splits = digits()
    pixels = cast(MemoryImages, splits.train).pixels.numpy() / 255
    assert (splits.recipe.crop_padding, splits.recipe.flip) == (1, False)
    np.testing.assert_allclose(splits.recipe.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(splits.recipe.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_test_digits_are_a_fifth_for_every_seed() -> None:
    first, other = digits(seed=0).test, digits(seed=1).test
    assert first.num_images == other.num_images == 359
    assert torch.equal(cast(MemoryImages, first).pixels, cast(MemoryImages, other).pixels)
    assert all(34 <= count <= 38 for count in class_counts(first).values())


def test_test_digits_are_the_published_ones() -> None:
    # A change would make accuracies of two versions incomparable.
    chosen, _ = stratified_rows(torch.from_numpy(load_digits().target), 359, torch.Generator().manual_seed(0))
    images = np.rint(load_digits().images[chosen] * (255 / 16))
    assert np.array_equal(cast(MemoryImages, digits().test).pixels[:, 0].numpy(), images)


def test_training_and_validation_are_disjoint_complete_and_stratified() -> None:
    splits = digits(val_fraction=0.25)
    train, val = rows(splits.train), rows(splits.val)
    assert not train & val
    assert train | val == set(range(1438))
    assert len(val) == splits.val.num_images == round(0.25 * 1438)
    of_train, of_val = class_counts(splits.train), class_counts(splits.val)
    assert all(abs(of_val[label] - 0.25 * (of_val[label] + of_train[label])) <= 1 for label in range(10))


def test_image_size_is_refused_for_images_of_one_size() -> None:
    with pytest.raises(DataError, match=r"^data\.image_size: .*digits.* got 16"):
        digits(image_size=16)


def test_split_is_a_function_of_the_seed() -> None:
    assert rows(digits(seed=5).val) == rows(digits(seed=5).val)
    assert rows(digits(seed=5).val) != rows(digits(seed=6).val)


def test_max_train_images_includes_validation_images_and_is_stratified() -> None:
    splits = digits(max_train_images=100, val_fraction=0.2)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (80, 20, 359)
    together = class_counts(splits.train) + class_counts(splits.val)
    assert all(9 <= together[label] <= 11 for label in range(10))
    assert rows(splits.train) | rows(splits.val) != set(range(100))
    val = class_counts(splits.val)
    assert all(abs(val[label] - 0.2 * together[label]) < 1 for label in range(10))


def test_two_training_images_are_enough_beside_validation_images(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write_class_folders(tmp_path / "images" / part, {"cat": random_pixels(2, 8, 8)})
    splits = load_splits(DataSettings(name="folder", root=str(tmp_path / "images")), seed=0)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (2, 2, 2)


def test_there_is_at_least_one_validation_image() -> None:
    splits = digits(max_train_images=3, val_fraction=0.01)
    assert (splits.train.num_images, splits.val.num_images) == (2, 1)


@pytest.mark.parametrize(("max_train_images", "num_val"), [(10, 1), (14, 1), (16, 2), (26, 3)])
def test_number_of_validation_images_is_rounded(max_train_images: int, num_val: int) -> None:
    splits = digits(max_train_images=max_train_images, val_fraction=0.1)
    assert (splits.train.num_images, splits.val.num_images) == (max_train_images - num_val, num_val)


def test_all_training_images_may_be_used() -> None:
    splits = digits(max_train_images=1438)
    assert rows(splits.train) | rows(splits.val) == set(range(1438))


def test_training_and_validation_share_one_memory_map() -> None:
    splits = digits()
    train, val = cast(MemoryImages, splits.train), cast(MemoryImages, splits.val)
    assert train.pixels.data_ptr() == val.pixels.data_ptr()


def test_label_noise_changes_its_share_of_the_training_labels_alone() -> None:
    clean, noisy = digits(), digits(label_noise=0.4)
    rows_of = {name: cast(MemoryImages, getattr(clean, name)).rows for name in ("train", "val", "test")}
    assert all(same(rows, cast(MemoryImages, getattr(noisy, name)).rows) for name, rows in rows_of.items())
    pairs = zip(labels_of(clean), labels_of(noisy), strict=True)
    (clean_train, noisy_train), *others = pairs
    wrong = clean_train != noisy_train
    assert int(wrong.sum()) == round(0.4 * len(clean_train))
    assert 0.3 < wrong[-200:].float().mean() < 0.5
    shifts = Counter(((noisy_train - clean_train)[wrong] % 10).tolist())
    assert sorted(shifts) == [*range(1, 10)]
    assert max(shifts.values()) < 2 * min(shifts.values())
    assert all(torch.equal(one, other) for one, other in others)
    assert torch.equal(labels_of(digits(label_noise=0.4))[0], noisy_train)
    assert not torch.equal(labels_of(digits(seed=1, label_noise=0.4))[0], noisy_train)


def test_label_noise_of_images_in_files(tmp_path: Path) -> None:
    for part, num_images in (("train", 20), ("test", 2)):
        images = {
            "a": random_pixels(num_images, 8, 8),
            "b": random_pixels(num_images, 6, 8),
        }  # sizes of streamed images
        write_class_folders(tmp_path / part, images)
    clean, noisy = (
        load_splits(DataSettings(name="folder", root=str(tmp_path), label_noise=share), seed=0) for share in (0.0, 0.5)
    )
    assert isinstance(noisy.train, StreamedImages)
    (clean_train, noisy_train), *others = zip(labels_of(clean), labels_of(noisy), strict=True)
    assert int((clean_train != noisy_train).sum()) == len(clean_train) // 2
    assert all(torch.equal(one, other) for one, other in others)


def test_settings_replace_the_recipe_of_the_data_set() -> None:
    recipe = digits(crop_padding=3, flip=True).recipe
    assert (recipe.crop_padding, recipe.flip) == (3, True)
    assert digits(crop_padding=0).recipe.crop_padding == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_train_images": 1439}, r"data\.max_train_images: .* 1438, got 1439"),
        (
            {"max_train_images": 2},
            r"data: .*2 images.*, got 2 and 1 .*validation; .*data\.max_train_images.*data\.val_fraction",
        ),
        ({"crop_padding": 9}, r"data\.crop_padding: .* 8, got 9"),
        ({"label": "label"}, r"data\.label: .*Parquet.*, got 'label' .*digits"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        digits(**settings)


def test_unknown_data_set_lists_the_choices() -> None:
    with pytest.raises(DataError, match=r"data\.name: .*'cifar'; .*digits, cifar10, .*did you mean 'cifar10'"):
        load_splits(DataSettings(name="cifar"), seed=0)


@pytest.mark.parametrize("name", ["parquet", "folder"])
def test_user_data_needs_an_existing_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.root: .*'{name}'.*, got none"):
        load_splits(DataSettings(name=name), seed=0)
    with pytest.raises(DataError, match=r"data\.root: .*, got '.*absent'"):
        load_splits(DataSettings(name=name, root=str(tmp_path / "absent")), seed=0)


def test_names_of_data_sets() -> None:
    assert sorted(DATASETS) == ["cifar10", "cifar100", "digits", "folder", "hf", "parquet"]
