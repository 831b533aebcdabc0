"""Images of several sizes, or too many for memory, read from their files batch by batch, with the ImageNet recipe.

The augmentation of an image is a function of (epoch's seed, image's index), whatever the number of workers; the global
random state is unused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from graftpop.data.augment import Recipe, normalize, random_crop_box
from graftpop.data.batch_reader import in_order, read_batches, shuffled
from graftpop.data.decoding import decode_image
from graftpop.data.policies import varied
from graftpop.errors import DataError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "INPUT_SIDE", "StreamedImages"]

# As in pytorch/examples, imagenet/main.py.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
RESIZED_SHARE: Final = 256 / 224  # evaluation: shorter side after resizing / side of the center crop
INPUT_SIDE: Final = 224  # pixels, unless data.image_size is set

Item = tuple[Tensor, int] | DataError


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Images in files.

    Args:
        files: path of each image.
        labels: int64 (num_images,).
        recipe: normalization, mirroring, policy and color jitter; its crop padding is ignored.
        side: side of the network's square input, in pixels.
        num_workers: processes that read; 0 reads in this process.
    """

    files: Sequence[str]
    labels: Tensor
    recipe: Recipe
    side: int = INPUT_SIDE
    num_workers: int = 0

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return len(self.files)

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in random order: a random box of it, resized and randomly mirrored; see `Images`."""
        return self._read(shuffled(self.num_images, batch_size, seed), seed, device)

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the center crop of every image once, in the order of the files; see `Images`."""
        return self._read(in_order(self.num_images, batch_size), None, device)

    def _read(
        self, batches: Sequence[Tensor], seed: int | None, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        decoded = self._decoded(batches, seed, device)
        if seed is not None:
            size = (self.side, self.side)
            decoded = varied(decoded, self.recipe.augmentation, self.num_images, size, seed)
        for pixels, labels in decoded:
            yield normalize(pixels, self.recipe), labels

    def _decoded(
        self, batches: Sequence[Tensor], seed: int | None, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        files = _Files(self.files, self.labels, self.recipe.flip, self.side, seed)
        for batch in read_batches(files, batches, self.num_workers, device, _collate):
            if isinstance(batch, DataError):
                raise batch
            pixels, labels = (part.to(device, non_blocking=True) for part in batch)
            yield pixels, labels


class _Files(Dataset[Item]):
    """Items (uint8 (3, side, side), label); augmented unless `seed` is None."""

    def __init__(self, files: Sequence[str], labels: Tensor, flip: bool, side: int, seed: int | None) -> None:
        self.files, self.labels, self.flip, self.side, self.seed = files, labels, flip, side, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        from torchvision.transforms import functional

        try:
            image = decode_image(self.files[index], self.files[index])
        except DataError as error:
            return error  # raised in the main process: a worker would add its traceback to the message
        if self.seed is None:
            image = functional.center_crop(functional.resize(image, [round(self.side * RESIZED_SHARE)]), [self.side])
        else:
            generator = np.random.default_rng((self.seed, index))
            box = random_crop_box(image.height, image.width, generator)
            image = functional.resized_crop(image, *box, [self.side, self.side])
            if self.flip and generator.random() < 0.5:
                image = functional.hflip(image)
        return functional.pil_to_tensor(image), int(self.labels[index])


def _collate(items: list[Item]) -> tuple[Tensor, Tensor] | DataError:
    pixels, labels = [], []
    for item in items:
        if isinstance(item, DataError):
            return item
        pixels.append(item[0])
        labels.append(item[1])
    return torch.stack(pixels), torch.tensor(labels)
