"""Loading of the training, validation and test splits that the settings describe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from graftpop.data.augment import Recipe
from graftpop.data.cache import Decoded, decoded
from graftpop.data.cifar import find_cifar10, find_cifar100
from graftpop.data.decoding import DamagedImage
from graftpop.data.digits import find_digits
from graftpop.data.folder import ImageFiles, find_folder
from graftpop.data.huggingface import find_hf, hub_source
from graftpop.data.identities import held_out_identities, match_note, numbered
from graftpop.data.images import MemoryImages, Splits
from graftpop.data.label_noise import with_label_noise
from graftpop.data.market import find_market
from graftpop.data.mixing import with_mixing
from graftpop.data.omniglot import find_omniglot
from graftpop.data.parquet import find_parquet
from graftpop.data.parquet_identities import find_parquet_identities
from graftpop.data.source import Color, Source
from graftpop.data.stratified_split import stratified_rows
from graftpop.data.streamed import IMAGENET_MEAN, IMAGENET_STD, INPUT_SIDE, StreamedImages
from graftpop.data.torch_dataset import dataset_splits
from graftpop.data.user_data import user_datasets
from graftpop.errors import DataError, choose
from graftpop.settings import NO_AUGMENTATION, AugmentationSettings, DataSettings, TaskSettings
from graftpop.user_code import PYTHON

__all__ = ["DATASETS", "IDENTITIES", "data_set", "given_classes", "given_splits", "load_splits"]

DATASETS: Final[Mapping[str, Callable[[DataSettings], Source | ImageFiles]]] = {
    "digits": find_digits,
    "cifar10": find_cifar10,
    "cifar100": find_cifar100,
    "parquet": find_parquet,
    "hf": find_hf,
    "folder": find_folder,
}

IDENTITIES: Final[Mapping[str, Callable[[DataSettings], Source]]] = {
    "omniglot": find_omniglot,
    "parquet": find_parquet_identities,
    "market1501": find_market,
    "dukemtmc": find_market,
}
"""The data sets of recognition."""

CLASSIFICATION: Final = TaskSettings()

MIN_TRAINING_IMAGES: Final = 2  # BatchNorm cannot train on one
PADDING_SHARE: Final = 8  # default padding of crops: an eighth of the side, 4 of CIFAR's 32 pixels


MeanStd = tuple[Color, Color] | None


def data_set(name: str, task: TaskSettings) -> Callable[[DataSettings], Source | ImageFiles]:
    """Return the function that finds a data set for a task.

    Raises:
        DataError: the task has no such data set.
    """
    return choose(IDENTITIES if task.name == "recognition" else DATASETS, name, "data.name", DataError)


def load_splits(
    data: DataSettings,
    *,
    seed: int,
    num_workers: int = 0,
    task: TaskSettings = CLASSIFICATION,
    augmentation: AugmentationSettings = NO_AUGMENTATION,
    mean_std: MeanStd = None,
) -> Splits:
    """Return the training, validation and test images of a data set.

    Images in memory are decoded once per node, into the cache. If the data set has no validation images, they are
    split off the training images, stratified by class, or for recognition as whole identities; that split is a function
    of `seed` alone.

    Args:
        data: the data set, its split and its crops.
        seed: chooses the `data.max_train_images` images and the validation images.
        num_workers: processes that read images streamed from files; 0 reads in this process.
        task: the task, which decides the data sets and their targets.
        augmentation: further augmentation of the training images.
        mean_std: normalization of the images; None: that of the data set. Tensors of user-defined data are used as they
            are.

    Raises:
        DataError: the data set is unknown, absent, damaged, or does not fit the settings.
    """
    if data.name.startswith(PYTHON):
        return given_splits(
            *user_datasets(data),
            data,
            seed=seed,
            num_workers=num_workers,
            has_labels=not task.is_user_defined,
            augmentation=augmentation,
            mean_std=mean_std,
        )
    find = data_set(data.name, task)
    try:
        found = find(data)
        if data.label is not None and (isinstance(found, ImageFiles) or found.label is None):
            raise DataError(
                f"data.label: must be unset unless the data is in Parquet files, got '{data.label}' for {data.name}; "
                "leave it out"
            )
        if data.image_size is not None and isinstance(found, Source) and found.image_size is None:
            raise DataError(
                f"data.image_size: must be unset for {data.name}, whose images have one size, got {data.image_size}; "
                "leave it out"
            )
        if data.camera is not None and not (isinstance(found, Source) and found.camera):
            raise DataError(
                f"data.camera: must be unset unless a Parquet table is used for recognition, got '{data.camera}' for "
                f"{data.name}; leave it out"
            )
        if data.on_damage != "refuse" and data.name != "folder":
            raise DataError(
                f"data.on_damage: must be refuse unless data.name is folder, got {data.on_damage} for {data.name}; "
                "leave it out"
            )
        if isinstance(found, ImageFiles):
            splits = _streamed_splits(found, data, seed, num_workers, augmentation, mean_std)
        elif found.has_identities:
            splits = _identity_splits(found, decoded(found), data, seed, task, augmentation, mean_std)
        else:
            return _memory_splits(found, decoded(found), data, seed, augmentation, mean_std)
        return replace(splits, train=with_mixing(splits.train, augmentation, len(splits.class_names)))
    except DamagedImage as error:
        if data.name != "folder":
            raise
        raise DataError(f"{error}, or set data.on_damage to skip") from error
    except OSError as error:
        raise DataError(f"data: {data.name} must be readable, got {error}; check its folder") from error


def given_splits(  # three splits, and all that their items do not say
    train: Any,
    val: Any,
    test: Any,
    data: DataSettings,
    *,
    classes: Sequence[str] = (),
    seed: int,
    num_workers: int = 0,
    has_labels: bool = True,
    augmentation: AugmentationSettings = NO_AUGMENTATION,
    mean_std: MeanStd = None,
) -> Splits:
    """Return the splits of data sets in Python.

    Args:
        train: a torch data set, see `dataset_splits`, or images of Hugging Face, see `hub_source`.
        val: likewise; None: split off `train`.
        test: likewise.
        data: share of the validation split; for images of Hugging Face also the label, the size and the crops.
        classes: class names; empty: the data set's own.
        seed: fixes the validation split.
        num_workers: processes that read; 0 reads in this process.
        has_labels: whether targets must be the labels of classes.
        augmentation: further augmentation of the training images.
        mean_std: normalization of images of Hugging Face; None: that of the training images.

    Raises:
        DataError: the data sets do not fit the settings or the classes.
    """
    source = hub_source(train, val, test, data)
    if source is not None:
        splits = _memory_splits(source, decoded(source), data, seed, augmentation, mean_std)
        if classes and len(classes) != len(splits.class_names):
            raise DataError(
                f"classes: must name the {len(splits.class_names)} classes of column '{source.label}', got "
                f"{len(classes)}; leave them out, or use cast_column('{source.label}', datasets.ClassLabel(names=...))"
            )
        return replace(splits, class_names=tuple(classes) or splits.class_names)
    if data.label_noise:
        raise DataError(
            f"data.label_noise: must be 0 for data sets in Python, got {data.label_noise:g}; change the labels in the "
            f"data set"
        )
    return dataset_splits(
        train,
        val,
        test,
        classes=list(map(str, classes or getattr(train, "classes", ()))),
        val_fraction=data.val_fraction,
        seed=seed,
        num_workers=num_workers,
        has_labels=has_labels,
        augmentation=augmentation,
    )


def given_classes(train: Any, val: Any, test: Any, data: DataSettings) -> Sequence[str]:
    """Return the class names that data sets in Python have, empty if none; arguments as in `given_splits`."""
    source = hub_source(train, val, test, data)
    return decoded(source).class_names if source is not None else getattr(train, "classes", None) or ()


def _memory_splits(
    source: Source,
    images: Decoded,
    data: DataSettings,
    seed: int,
    augmentation: AugmentationSettings,
    mean_std: MeanStd,
) -> Splits:
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


def _identity_splits(
    source: Source,
    images: Decoded,
    data: DataSettings,
    seed: int,
    task: TaskSettings,
    augmentation: AugmentationSettings,
    mean_std: MeanStd,
) -> Splits:
    """Return the splits of recognition: training images with identities from 0, the others with camera and role."""
    recipe = _recipe(source, images, data, augmentation, mean_std)
    pixels, labels = images.parts["train"]
    generator = torch.Generator().manual_seed(seed)
    if "val" in images.parts:
        rows, held_out = torch.arange(len(labels)), None
    else:
        rows, held_out = held_out_identities(labels, data.max_train_images, data.val_fraction, generator)
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
    if held_out is None:
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


def _streamed_splits(
    images: ImageFiles,
    data: DataSettings,
    seed: int,
    num_workers: int,
    augmentation: AugmentationSettings,
    mean_std: MeanStd,
) -> Splits:
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


def _cut(labels: Tensor, data: DataSettings, seed: int, *, has_val: bool) -> tuple[Tensor, Tensor | None]:
    """Return training rows, and validation rows if they are split off the training images (None if `has_val`)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(labels))
    if data.max_train_images is not None:
        if data.max_train_images > len(labels):
            raise DataError(
                f"data.max_train_images: must be at most the number of training images, {len(labels)}, "
                f"got {data.max_train_images}"
            )
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
