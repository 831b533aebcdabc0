"""Loading of the data set that the settings describe, by name or as Python objects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from graftpop.data.cache import decoded
from graftpop.data.cifar import find_cifar10, find_cifar100
from graftpop.data.decoding import DamagedImage
from graftpop.data.digits import find_digits
from graftpop.data.folder import ImageFiles, find_folder
from graftpop.data.huggingface import find_hf, hub_source
from graftpop.data.images import Splits
from graftpop.data.market import find_market
from graftpop.data.mixing import with_mixing
from graftpop.data.omniglot import find_omniglot
from graftpop.data.parquet import find_parquet
from graftpop.data.parquet_identities import find_parquet_identities
from graftpop.data.source import Source
from graftpop.data.splits import MeanStd, identity_splits, memory_splits, streamed_splits
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
            splits = streamed_splits(found, data, seed, num_workers, augmentation, mean_std)
        elif found.has_identities:
            splits = identity_splits(found, data, seed, task, augmentation, mean_std)
        else:
            return memory_splits(found, data, seed, augmentation, mean_std)
        return replace(splits, train=with_mixing(splits.train, augmentation, len(splits.class_names)))
    except DamagedImage as error:
        if data.name != "folder":
            raise
        raise DataError(f"{error}, or set data.on_damage to skip") from error
    except OSError as error:
        raise DataError(f"data: {data.name} must be readable, got {error}; check its folder") from error


def given_splits(  # three splits, and every property that their items do not state
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
        splits = memory_splits(source, data, seed, augmentation, mean_std)
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
    """Return the class names of data sets in Python, empty if they have none; arguments as in `given_splits`."""
    if (source := hub_source(train, val, test, data)) is not None:
        return decoded(source).class_names
    names: Sequence[str] | None = getattr(train, "classes", None)
    return () if names is None else names
