"""Batches of images that are streamed from their files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from data_makers import png, random_pixels, write_class_folders
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.models import ResNet18_Weights

from graftpop.data import Splits, StreamedImages, load_splits
from graftpop.data.augment import Recipe, normalize
from graftpop.data.policies import varied
from graftpop.data.streamed import IMAGENET_MEAN, IMAGENET_STD
from graftpop.errors import DataError
from graftpop.settings import AugmentationSettings, DataSettings

CPU = torch.device("cpu")
# Two workers may be more than this machine has cores, and Python warns of forks in a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of images of several sizes: 13 for training, 4 for testing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = [random_pixels(1, 40 + 7 * number, 90 - 5 * number, seed=number)[0] for number in range(13)]
    write_class_folders(tmp_path / "images" / "train", {"cat": images[:8], "dog": images[8:]})
    write_class_folders(tmp_path / "images" / "test", {"cat": images[:2], "dog": images[8:10]})
    return tmp_path / "images"


def load(root: Path, num_workers: int = 0, flip: bool = True, seed: int = 0) -> Splits:
    settings = DataSettings(name="folder", root=str(root), flip=flip)
    return load_splits(settings, seed=seed, num_workers=num_workers)


def together(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_splits_are_disjoint_complete_and_seeded(root: Path) -> None:
    splits = load(root)
    train, val, test = (cast(StreamedImages, split) for split in (splits.train, splits.val, splits.test))
    assert (train.num_images, val.num_images, test.num_images) == (12, 1, 4)
    assert not set(train.files) & set(val.files)
    assert len(set(train.files) | set(val.files)) == 13
    assert all(("dog" in file) == bool(label) for file, label in zip(train.files, train.labels, strict=True))
    assert cast(StreamedImages, load(root).val).files == val.files


def test_evaluation_equals_the_recipe_of_torchvision(root: Path) -> None:
    test = cast(StreamedImages, load(root).test)
    images, labels = together(test.evaluation_batches(3, CPU))
    recipe = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    expected = torch.stack([recipe(Image.open(file).convert("RGB")) for file in test.files])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
    assert labels.tolist() == [0, 0, 1, 1]


def test_training_is_the_same_for_any_number_of_workers(root: Path) -> None:
    alone, parallel = (together(load(root, num_workers).train.training_batches(5, 7, CPU)) for num_workers in (0, 2))
    assert torch.equal(alone[0], parallel[0])
    assert torch.equal(alone[1], parallel[1])
    assert alone[0].shape == (12, 3, 224, 224)


def test_policy_erasing_and_mixing_are_the_same_for_any_number_of_workers(root: Path) -> None:
    settings = DataSettings(name="folder", root=str(root))
    augmentation = AugmentationSettings(policy="randaugment", color_jitter=0.4, erasing=0.5, cutmix=1.0)
    alone, parallel = (
        load_splits(settings, seed=0, num_workers=num_workers, augmentation=augmentation).train
        for num_workers in (0, 2)
    )
    images, targets = together(alone.training_batches(5, 7, CPU))
    plain = load_splits(settings, seed=0).train
    unmixed, _ = together(plain.training_batches(5, 7, CPU))
    assert all(map(torch.equal, (images, targets), together(parallel.training_batches(5, 7, CPU))))
    assert (images - unmixed).flatten(1).abs().amax(1).gt(0.01).sum() > 6
    assert targets.shape == (12, 2)
    torch.testing.assert_close(targets.sum(1), torch.ones(12))
    assert torch.equal(together(alone.evaluation_batches(5, CPU))[0], together(plain.evaluation_batches(5, CPU))[0])


def test_streamed_images_are_changed_by_a_policy_before_normalization(root: Path) -> None:
    train = replace(cast(StreamedImages, load(root).train), side=16)
    augmentation = AugmentationSettings(policy="trivialaugment", color_jitter=0.2)
    pixels = _pixels(train)
    expected = together(varied(pixels, augmentation, 12, (16, 16), 7))[0]
    images = together(
        replace(train, recipe=replace(train.recipe, augmentation=augmentation)).training_batches(5, 7, CPU)
    )[0]
    assert torch.equal(images, normalize(expected, train.recipe))


def _pixels(train: StreamedImages) -> Iterator[tuple[Tensor, Tensor]]:
    plain = replace(train, recipe=Recipe((0.0, 0.0, 0.0), (1 / 255,) * 3, 0, train.recipe.flip))
    return ((images.round().byte(), labels) for images, labels in plain.training_batches(5, 7, CPU))


def test_augmentation_does_not_depend_on_the_batch_size(root: Path) -> None:
    train = load(root).train
    assert torch.equal(together(train.training_batches(4, 7, CPU))[0], together(train.training_batches(12, 7, CPU))[0])


def test_epochs_of_different_seeds_differ_in_order_and_crops(root: Path) -> None:
    train = cast(StreamedImages, load(root).train)
    first, other = (together(train.training_batches(4, seed, CPU)) for seed in (1, 2))
    orders = [torch.randperm(12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert all(
        torch.equal(labels, train.labels[order]) for (_, labels), order in zip((first, other), orders, strict=True)
    )
    same_image = first[0][orders[0].argsort()], other[0][orders[1].argsort()]
    assert not any(torch.equal(crop, other_crop) for crop, other_crop in zip(*same_image, strict=True))


def test_moments_are_those_of_torchvision() -> None:
    published = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert [*IMAGENET_MEAN] == published.mean
    assert [*IMAGENET_STD] == published.std


@pytest.fixture
def one_file(tmp_path: Path) -> str:
    file = tmp_path / "image.png"
    file.write_bytes(png(random_pixels(1, 10, 14)[0]))
    return str(file)


def test_every_image_has_a_crop_and_mirroring_of_its_own(one_file: str) -> None:
    files, labels = [one_file] * 400, torch.zeros(400)
    mirrored, plain = (
        next(StreamedImages(files, labels, recipe, side=8).training_batches(400, 7, CPU))[0]
        for recipe in (Recipe(IMAGENET_MEAN, IMAGENET_STD, 0, flip) for flip in (True, False))
    )
    assert len(plain.unique(dim=0)) > 200
    num_mirrored = (mirrored != plain).flatten(1).any(1).sum()
    assert abs(num_mirrored / 400 - 0.5) < 0.1  # four standard errors


def test_flip_changes_nothing_but_mirroring(root: Path) -> None:
    flipped, plain = (together(load(root, flip=flip).train.training_batches(12, 7, CPU))[0] for flip in (True, False))
    mirrored = [torch.equal(image, original.flip(2)) for image, original in zip(flipped, plain, strict=True)]
    pairs = zip(mirrored, flipped, plain, strict=True)
    assert all(is_mirrored or torch.equal(image, original) for is_mirrored, image, original in pairs)
    assert 0 < sum(mirrored) < 12


def test_last_batch_of_one_image_is_dropped_in_training_only(root: Path) -> None:
    splits = load(root)
    assert [len(labels) for _, labels in splits.train.training_batches(11, 0, CPU)] == [11]
    assert [len(labels) for _, labels in splits.test.evaluation_batches(3, CPU)] == [3, 1]


def test_streaming_does_not_change_the_global_random_states(root: Path) -> None:
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    together(load(root).train.training_batches(5, 7, CPU))
    assert torch.equal(torch_before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state(legacy=False)["state"]["key"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_file_is_named_in_one_line(root: Path, num_workers: int) -> None:
    splits = load(root, num_workers)
    file = root / "train" / "cat" / "001.png"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"train/cat/001\.png: ") as caught:
        together(splits.train.training_batches(4, 0, CPU))
    assert "\n" not in str(caught.value)


def test_crop_padding_is_refused_for_streamed_images(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.crop_padding: .*streamed.*, got 4; "):
        load_splits(DataSettings(name="folder", root=str(root), crop_padding=4), seed=0)
