"""Training, validation and test splits of a data set's images: in memory, by identity, or streamed from files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from graftpop.data.augment import Recipe
from graftpop.data.cache import Decoded, decoded
from graftpop.data.folder import ImageFiles
from graftpop.data.identities import held_out_identities, match_note, numbered
from graftpop.data.images import MemoryImages, Splits
from graftpop.data.label_noise import with_label_noise
from graftpop.data.mixing import with_mixing
from graftpop.data.source import Color, Source
from graftpop.data.stratified_split import stratified_rows
from graftpop.data.streamed import IMAGENET_MEAN, IMAGENET_STD, INPUT_SIDE, StreamedImages
from graftpop.errors import DataError
from graftpop.settings import AugmentationSettings, DataSettings, TaskSettings

__all__ = ["MeanStd", "identity_splits", "memory_splits", "streamed_splits"]

MIN_TRAINING_IMAGES: Final = 2  # BatchNorm cannot train on one

PADDING_SHARE: Final = 8  # default padding of crops: an eighth of the side, 4 of CIFAR's 32 pixels

MeanStd = tuple[Color, Color] | None
"""Mean and standard deviation of each color, for pixels in [0, 1]; None: those of the data set."""


def memory_splits(
    source: Source, data: DataSettings, seed: int, augmentation: AugmentationSettings, mean_std: MeanStd
) -> Splits:
    """Return the splits of labeled images in memory.

    Args:
        source: location of the images, which are decoded once per node.
        data: the share of the validation images, the number of training images, label noise and crops.
        seed: chooses the training and the validation images.
        augmentation: further augmentation of the training images.
        mean_std: normalization of the images.

    Raises:
        DataError: the images are damaged, or do not fit the settings.
    """
    images = decoded(source)
    pixels, labels = images.parts["train"]
    recipe = _recipe(source, images, data, augmentation, mean_std)
    train_rows, val_rows = _cut(labels, data, seed, has_val="val" in images.parts)
    labels = _with_noise(labels, train_rows, images.class_names, data, seed)
    train = MemoryImages(pixels, labels, recipe, train_rows)
    val = MemoryImages(*images.parts["val"], recipe) if val_rows is None else replace(train, rows=val_rows)
    test = MemoryImages(*images.parts["test"], recipe)
    trained = with_mixing(train, augmentation, len(images.class_names))
    notes = source.notes + images.notes
    return Splits(trained, val, test, images.class_names, (3, *pixels.shape[2:]), recipe, notes)


def identity_splits(
    source: Source,
    data: DataSettings,
    seed: int,
    task: TaskSettings,
    augmentation: AugmentationSettings,
    mean_std: MeanStd,
) -> Splits:
    """Return the splits of recognition: training images with identities from 0, the others with camera and role.

    Args:
        source: location of the images, which are decoded once per node.
        data: the share of the validation identities, the number of training images, and crops.
        seed: chooses the training images and the validation identities.
        task: images per identity and batch.
        augmentation: further augmentation of the training images.
        mean_std: normalization of the images.

    Raises:
        DataError: the images are damaged or do not fit the settings, or an identity is in two splits.
    """
    images = decoded(source)
    recipe = _recipe(source, images, data, augmentation, mean_std)
    pixels, labels = images.parts["train"]
    generator = torch.Generator().manual_seed(seed)
    has_val = "val" in images.parts
    val_fraction = None if has_val else data.val_fraction
    _check_max_train_images(data, len(labels))
    rows, held_out = held_out_identities(labels, data.max_train_images, val_fraction, generator)
    for part in images.parts.keys() - {"train"}:
        both = set(labels[:, 0].tolist()) & set(images.parts[part][1][:, 0].tolist()) - {-1}
        if both:
            names = ", ".join(images.class_names[identity] for identity in sorted(both)[:5])
            raise DataError(
                f"data: identities of {part} must not occur in training, got {len(both)} that do: {names}; move their "
                f"images to one of them"
            )
    targets = torch.full((len(labels),), -1)
    targets[rows] = numbered(labels[rows, 0])
    per_identity = task.images_per_identity if task.triplet_weight else None
    train = MemoryImages(pixels, targets, recipe, rows, per_identity)
    if has_val:
        val, val_targets = MemoryImages(*images.parts["val"], recipe), images.parts["val"][1]
    else:
        val, val_targets = MemoryImages(pixels, labels, recipe, held_out), labels[held_out]
    test = MemoryImages(*images.parts["test"], recipe)
    more = (match_note(found, part) for part, found in (("val", val_targets), ("test", test.labels)))
    notes = (*source.notes, *images.notes, *filter(None, more))
    trained = tuple(images.class_names[identity] for identity in labels[rows, 0].unique().tolist())
    return Splits(train, val, test, trained, (3, *pixels.shape[2:]), recipe, notes)


def _recipe(
    source: Source, images: Decoded, data: DataSettings, augmentation: AugmentationSettings, mean_std: MeanStd
) -> Recipe:
    side = min(images.parts["train"][0].shape[2:])
    crop_padding = side // PADDING_SHARE if data.crop_padding == "auto" else data.crop_padding
    if crop_padding > side:
        raise DataError(f"data.crop_padding: must be at most the images' side, {side}, got {crop_padding}")
    mean, std = mean_std or source.mean_std or (images.mean, images.std)
    return Recipe(mean, std, crop_padding, source.flip if data.flip == "auto" else data.flip, augmentation)


def streamed_splits(
    images: ImageFiles,
    data: DataSettings,
    seed: int,
    num_workers: int,
    augmentation: AugmentationSettings,
    mean_std: MeanStd,
) -> Splits:
    """Return the splits of labeled images that are read from their files when a batch needs them.

    Args:
        images: the files.
        data: the share of the validation images, the number of training images, label noise and size.
        seed: chooses the training and the validation images.
        num_workers: processes that read; 0 reads in this process.
        augmentation: further augmentation of the training images.
        mean_std: normalization of the images; None: ImageNet's.

    Raises:
        DataError: the images do not fit the settings.
    """
    if data.crop_padding != "auto":
        raise DataError(
            "data.crop_padding: must be auto for streamed images, which are cropped to random boxes, "
            f"got {data.crop_padding}; leave it out"
        )
    side = data.image_size or INPUT_SIDE
    mean, std = mean_std or (IMAGENET_MEAN, IMAGENET_STD)
    recipe = Recipe(mean, std, 0, True if data.flip == "auto" else data.flip, augmentation)

    labels = {part: torch.tensor([label for _, label in files]) for part, files in images.parts.items()}
    train_rows, val_rows = _cut(labels["train"], data, seed, has_val="val" in images.parts)
    labels["train"] = _with_noise(labels["train"], train_rows, images.class_names, data, seed)

    def split(part: str, rows: Tensor | None) -> StreamedImages:
        rows = torch.arange(len(labels[part])) if rows is None else rows
        files = [images.parts[part][row][0] for row in rows.tolist()]
        return StreamedImages(files, labels[part][rows], recipe, side, num_workers)

    val = split("val", None) if val_rows is None else split("train", val_rows)
    train, test = split("train", train_rows), split("test", None)
    return Splits(train, val, test, images.class_names, (3, side, side), recipe, images.notes)


def _with_noise(labels: Tensor, rows: Tensor, classes: Sequence[str], data: DataSettings, seed: int) -> Tensor:
    """Return labels (N,) with the noise of `data.label_noise` in the training rows alone."""
    if not data.label_noise:
        return labels
    if len(classes) < 2:
        raise DataError(
            f"data.label_noise: needs at least two classes, got {len(classes)}; add images of another class, or set "
            f"it to 0"
        )
    noisy = labels.clone()
    noisy[rows] = with_label_noise(labels[rows], len(classes), data.label_noise, seed)
    return noisy


def _check_max_train_images(data: DataSettings, num_images: int) -> None:
    if data.max_train_images is not None and data.max_train_images > num_images:
        raise DataError(
            f"data.max_train_images: must be at most the number of training images, {num_images}, got "
            f"{data.max_train_images}; lower it, or leave it out"
        )


def _cut(labels: Tensor, data: DataSettings, seed: int, *, has_val: bool) -> tuple[Tensor, Tensor | None]:
    """Return training rows, and validation rows if they are split off the training images (None if `has_val`)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(labels))
    _check_max_train_images(data, len(labels))
    if data.max_train_images is not None:
        rows, _ = stratified_rows(labels, data.max_train_images, generator)
    num_val = 0 if has_val else max(1, round(data.val_fraction * len(rows)))
    if len(rows) - num_val < MIN_TRAINING_IMAGES:
        raise DataError(
            f"data: at least {MIN_TRAINING_IMAGES} images must be left to train on, got {len(rows)} and "
            f"{num_val} of them for validation; raise data.max_train_images or lower data.val_fraction"
        )
    if has_val:
        return rows, None
    val, train = stratified_rows(labels[rows], num_val, generator)
    return rows[train], rows[val]
