"""Any data set of torch as a split: items are read one by one, with the augmentation that they have themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from graftpop.data.augment import Recipe
from graftpop.data.batch_reader import in_order, read_batches, shuffled
from graftpop.data.images import Splits
from graftpop.errors import DataError
from graftpop.seeds import derive, seeded

__all__ = ["DatasetImages", "dataset_splits"]

AS_THEY_ARE: Final = Recipe((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0, False)
"""What is done to the images of such a data set: nothing."""


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """A map-style data set of (image, label), the image a float tensor (C, H, W), ready for the network.

    What an item draws from torch's generators while it is read (the transforms of torchvision draw from them) is a
    function of the epoch's seed and its index, whatever the number of workers.

    Args:
        dataset: with a length.
        num_workers: processes that read; 0 reads in this one.
    """

    dataset: Dataset[Any]
    num_workers: int = 0

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
        for images, labels in read_batches(_Seeded(self.dataset, seed), batches, self.num_workers, device):
            with_layout = images.float().contiguous(memory_format=torch.channels_last)
            yield with_layout.to(device, non_blocking=True), labels.long().to(device, non_blocking=True)


class _Seeded(Dataset[Any]):
    """A data set whose items are functions of a seed and their index."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return _length(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with seeded(derive(self.seed, "item", index), torch.device("cpu")):
            return self.dataset[index]


def dataset_splits(
    train: Dataset[Any],
    val: Dataset[Any] | None,
    test: Dataset[Any],
    *,
    classes: Sequence[str],
    val_fraction: float,
    seed: int,
    num_workers: int = 0,
) -> Splits:
    """Return three splits of a user's own data sets.

    Args:
        train: of (image, label).
        val: for selection; None: cut from `train`, at random by `seed`.
        test: read once, at the end.
        classes: their names, by label.
        val_fraction: share of `train` that is cut.
        seed: of the cut.
        num_workers: processes that read.

    Raises:
        DataError: an item is not an image and a label, or there are too few.
    """
    shapes = {
        name: _image_shape(part, name)
        for name, part in (("train", train), ("val", val), ("test", test))
        if part is not None
    }
    if len(set(shapes.values())) > 1:
        raise DataError(f"data: images must have one shape in all splits, got {shapes}")
    if val is None:
        num = _length(train)
        order = torch.randperm(num, generator=torch.Generator().manual_seed(derive(seed, "split"))).tolist()
        num_val = max(1, round(val_fraction * num))
        train, val = Subset(train, order[num_val:]), Subset(train, order[:num_val])
    trains, validates, tests = (DatasetImages(part, num_workers) for part in (train, val, test))
    if trains.num_images < 2:
        raise DataError(
            f"data: at least 2 images must be left to train on, got {trains.num_images}, and "
            f"{validates.num_images} of them for validation"
        )
    return Splits(trains, validates, tests, tuple(classes), shapes["train"], AS_THEY_ARE)


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]  # torch leaves it to those data sets that have one to say so


def _image_shape(dataset: Dataset[Any], name: str) -> tuple[int, int, int]:
    if not _length(dataset):
        raise DataError(f"data: {name} has no images; each split needs some")
    item = dataset[0]
    image, label = item if isinstance(item, tuple | list) and len(item) == 2 else (None, None)
    if not isinstance(image, Tensor) or image.dim() != 3 or not isinstance(label, int | Tensor):
        got = tuple(type(part).__name__ for part in item) if isinstance(item, tuple | list) else type(item).__name__
        raise DataError(
            f"data: an item of {name} must be (image, label), the image a tensor (C, H, W), got {got}; a "
            f"transform such as torchvision's ToTensor makes one"
        )
    return image.shape[0], image.shape[1], image.shape[2]
