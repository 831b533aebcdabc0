"""User-defined torch data sets as splits: items are read one by one and used unchanged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from graftpop.data.augment import Recipe
from graftpop.data.batch_reader import in_order, read_batches, shuffled
from graftpop.data.images import Splits
from graftpop.data.input_shape import InputShape
from graftpop.data.mixing import with_mixing
from graftpop.errors import DataError, one_line
from graftpop.seeds import derive, seeded
from graftpop.settings import NO_AUGMENTATION, AugmentationSettings

__all__ = ["DatasetImages", "check_augmentation", "dataset_splits"]

AS_THEY_ARE: Final = Recipe((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0, False)
"""Leaves images unchanged: the data set itself normalizes and augments."""


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """A map-style data set of (input, target): tensors that are ready for the network, such as images (C, H, W).

    Floating-point inputs become float32, and images get channels last in memory. Targets are integers or tensors.

    Torch's global generator is seeded for each item, by the epoch's seed and the item's index. So the random transforms
    of torchvision give the same image for any number of workers.

    Args:
        dataset: map-style data set with a length.
        num_workers: processes that read; 0 reads in this process.
        num_classes: number of classes, if targets are their labels, which are then checked; None: any targets.
    """

    dataset: Dataset[Any]
    num_workers: int = 0
    num_classes: int | None = None

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return _length(self.dataset)

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in random order; see `Images`."""
        return self._read(shuffled(self.num_images, batch_size, seed), seed, device)

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in the order of the data set; see `Images`."""
        return self._read(in_order(self.num_images, batch_size), 0, device)

    def _read(self, batches: Sequence[Tensor], seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in read_batches(_Seeded(self.dataset, seed), batches, self.num_workers, device):
            inputs = inputs.float() if inputs.is_floating_point() else inputs.long()
            if inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            targets = targets.float() if targets.is_floating_point() else targets.long()
            if self.num_classes is not None:
                _check_labels(targets, self.num_classes, "data")
            yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


class _Seeded(Dataset[Any]):
    """A data set whose item is a function of the seed and the index."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return _length(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with seeded(derive(self.seed, "item", index), torch.device("cpu")):
            return self.dataset[index]


def dataset_splits(  # three splits, and every property that their items do not state
    train: Dataset[Any],
    val: Dataset[Any] | None,
    test: Dataset[Any],
    *,
    classes: Sequence[str],
    val_fraction: float,
    seed: int,
    num_workers: int = 0,
    has_labels: bool = True,
    augmentation: AugmentationSettings = NO_AUGMENTATION,
) -> Splits:
    """Return three splits of user-defined data sets.

    Args:
        train: items (input, target), the input a tensor such as an image (C, H, W).
        val: used for selection; None: split off `train` at random.
        test: read once, at the end.
        classes: names by label.
        val_fraction: share of `train` to split off, in (0, 1).
        seed: fixes that split.
        num_workers: processes that read; 0 reads in this process.
        has_labels: whether targets must be integers, the labels of classes; otherwise they may be any tensors.
        augmentation: erasing and mixing of the training images.

    Raises:
        DataError: the augmentation does not fit (`check_augmentation`), a first item is not an input and a target, the
            inputs of the splits or the targets of validation and test differ in shape or dtype, the splits number
            their classes differently, the first label of a split is no class, or fewer than 2 items are left to train
            on.
    """
    shapes = {
        name: _input_shape(part, name, has_labels)
        for name, part in (("train", train), ("val", val), ("test", test))
        if part is not None
    }
    _check_alike("inputs", shapes)
    check_augmentation(augmentation, shapes["train"])
    if has_labels:
        _check_numbering(train, {"val": val, "test": test})
        for name, part in (("train", train), ("val", val), ("test", test)):
            if part is not None and classes:
                _check_labels(torch.as_tensor(part[0][1]).reshape(1), len(classes), f"data: {name}")
    else:
        scored = {"train" if val is None else "val": train if val is None else val, "test": test}  # by one function
        _check_alike("targets", {name: InputShape.of(torch.as_tensor(part[0][1])) for name, part in scored.items()})
    if val is None:
        num = _length(train)
        order = torch.randperm(num, generator=torch.Generator().manual_seed(derive(seed, "split"))).tolist()
        num_val = max(1, round(val_fraction * num))
        train, val = Subset(train, order[num_val:]), Subset(train, order[:num_val])
    num_classes = len(classes) if has_labels and classes else None
    trains, validates, tests = (DatasetImages(part, num_workers, num_classes) for part in (train, val, test))
    if trains.num_images < 2:
        raise DataError(
            f"data: at least 2 images must be left to train on, got {trains.num_images} and "
            f"{validates.num_images} for validation; add training images"
        )
    trained = with_mixing(trains, augmentation, len(classes))
    return Splits(trained, validates, tests, tuple(classes), shapes["train"], AS_THEY_ARE)


def check_augmentation(augmentation: AugmentationSettings, shape: tuple[int, ...]) -> None:
    """Check that inputs can be augmented.

    Args:
        augmentation: the section of a peer.
        shape: shape of an input; an `InputShape` stands for user-defined tensors, any other tuple for images in pixels,
            which every augmentation accepts.

    Raises:
        DataError: a policy or color jitter is set for tensors, or erasing or mixing for tensors that are not images.
    """
    if not isinstance(shape, InputShape):
        return
    of_pixels = "must be {off} for a user-defined data set, whose images are ready for the network"
    of_images = f"must be {{off}} unless inputs are images (C, H, W) in float32, not {tuple(shape)} in {shape.dtype}"
    rules = dict.fromkeys(("policy", "color_jitter"), of_pixels)
    if (len(shape), shape.dtype) != (3, torch.float32):
        rules |= dict.fromkeys(("erasing", "mixup", "cutmix"), of_images)
    for key, rule in rules.items():
        off, got = getattr(NO_AUGMENTATION, key), getattr(augmentation, key)
        if got != off:
            raise DataError(f"augmentation.{key}: {rule.format(off=off)}, got {got}; transform inputs in the data set")


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length


def _input_shape(dataset: Dataset[Any], name: str, has_labels: bool) -> InputShape:
    if not _length(dataset):
        raise DataError(f"data: {name} has no items; each split needs at least one")
    item = dataset[0]
    value, target = item if isinstance(item, tuple | list) and len(item) == 2 else (None, None)
    is_target = isinstance(target, int | float | np.number | Tensor)
    if has_labels and not (
        isinstance(target, int | np.integer)
        or (isinstance(target, Tensor) and target.dim() == 0 and not target.is_floating_point())
    ):
        is_target = False
    if not isinstance(value, Tensor) or value.dim() == 0 or not is_target:
        got = tuple(map(_kind, item)) if isinstance(item, tuple | list) else type(item).__name__
        step = "use a transform such as torchvision's ToTensor"
        if isinstance(value, Tensor) and value.dim():
            step = "make the label an integer" if has_labels else "make the target a number or a tensor"
        raise DataError(
            f"data: an item of {name} must be (input, {'label' if has_labels else 'target'}), the input a tensor such "
            f"as an image (C, H, W), got {got}; {step}"
        )
    return InputShape.of(value)


def _check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Check labels (N,): the cross entropy ignores -100, and the test accuracy counts all others outside as wrong."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise DataError(
            f"{where}: labels must be in [0, {num_classes - 1}], got {int(wrong[0])}; number the classes from 0, and "
            f"leave out items without a class"
        )


def _check_alike(tensors: str, shapes: Mapping[str, InputShape]) -> None:
    kinds = {name: (tuple(shape), shape.dtype) for name, shape in shapes.items()}  # an InputShape equals any dtype's
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"data: {tensors} must have one shape and dtype in {', '.join(kinds)}, got {kinds}; transform all alike"
        )


def _check_numbering(train: Dataset[Any], others: Mapping[str, Dataset[Any] | None]) -> None:
    """Check that a label means the same class in all splits that name their classes.

    ImageFolder numbers the classes of each folder by itself, so a class without a folder shifts the later ones. With a
    `target_transform`, the labels of a split may differ from the positions in its attribute `classes`.
    """
    trained = getattr(train, "classes", None)
    for name, part in others.items():
        own = getattr(part, "classes", None)
        if not (isinstance(trained, list | tuple) and isinstance(own, list | tuple)):
            continue
        if any(getattr(one, "target_transform", None) is not None for one in (train, part)):
            continue
        for label, class_name in enumerate(own):
            if label >= len(trained) or class_name != trained[label]:
                there = f"'{trained[label]}'" if label < len(trained) else "no class"
                raise DataError(
                    f"data: labels of {name} must mean the classes of train, got '{one_line(class_name)}' for label "
                    f"{label}, which is {one_line(there)} in train; number them as train does, such as by a "
                    f"target_transform"
                )


def _kind(part: object) -> str:
    return f"tensor {tuple(part.shape)} of {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
