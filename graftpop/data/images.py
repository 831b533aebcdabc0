"""The interface of a split of images, and its in-memory implementation.

A node holds the pixels once, as uint8 mapped from the cache; a split is a list of their rows. All random numbers of an
epoch are drawn first, on the CPU and from the epoch's seed alone, so that every device sees the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from graftpop.data.augment import Recipe, crop_and_flip, normalize
from graftpop.data.identities import identity_batches
from graftpop.data.policies import varied

__all__ = ["Images", "MemoryImages", "Recipe", "Splits"]

Batches = Iterator[tuple[Tensor, Tensor]]


class Images(Protocol):
    """One split.

    Batches are pairs on `device`: normalized images float32 (B, 3, H, W), and labels int64 (B,).
    """

    @property
    def num_images(self) -> int:
        """How many images the split has."""

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Batches:
        """Yield every image once, augmented, in an order that is a function of `seed` alone.

        The last batch may be smaller. If it has a single image, it is dropped: BatchNorm cannot train on one.

        Args:
            batch_size: images per batch.
            seed: fixes order and augmentation of the epoch.
            device: torch device of the batches.
        """

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Batches:
        """Yield every image once, without augmentation, in the order of the data set."""


@dataclass(frozen=True)
class Splits:
    """A data set, ready for training."""

    train: Images
    val: Images
    test: Images
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]  # (channels, height, width) of the network's input, or an `InputShape`
    recipe: Recipe
    notes: tuple[str, ...] = ()
    """Lines for the user: files that are left out, labels that are renumbered, images that are scaled."""


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images of one size in memory.

    Args:
        pixels: uint8 (N, 3, H, W); fastest with channels last in memory.
        labels: int64 (N,), or (N, 3) for recognition.
        recipe: normalization and augmentation.
        rows: int64 (num_images,), the rows of `pixels` in this split; None: all.
        per_identity: images of each identity in a training batch, see `identity_batches`; None: batches at random.
    """

    pixels: Tensor
    labels: Tensor
    recipe: Recipe
    rows: Tensor | None = None
    per_identity: int | None = None
    _moved: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return len(self.labels if self.rows is None else self.rows)

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Batches:
        """Yield every image once, randomly cropped, mirrored and varied, in random order; see `Images`."""
        generator = torch.Generator().manual_seed(seed)
        padding = self.recipe.crop_padding
        order = self._training_order(batch_size, generator)
        offsets = torch.randint(2 * padding + 1, (2, len(order)), generator=generator)
        mirrored = torch.rand(len(order), generator=generator) < (0.5 if self.recipe.flip else 0.0)
        pixels, labels, order = self._on(device, order)
        draws = torch.stack((order, *offsets.to(device), mirrored.long().to(device)))
        cropped = (
            (crop_and_flip(_take(pixels, rows), dy, dx, flips.bool(), padding), labels.index_select(0, rows))
            for rows, dy, dx, flips in torch.split(draws, batch_size, dim=1)
            if len(rows) > 1
        )
        size = (pixels.shape[2], pixels.shape[3])
        for images, targets in varied(cropped, self.recipe.augmentation, len(order), size, seed):
            yield normalize(images, self.recipe), targets

    def _training_order(self, batch_size: int, generator: torch.Generator) -> Tensor:
        if self.per_identity is None:
            return torch.randperm(self.num_images, generator=generator)
        labels = self.labels if self.rows is None else self.labels[self.rows]
        return identity_batches(labels, self.per_identity, batch_size, generator)

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Batches:
        """Yield every image once, in the order of the data set; see `Images`."""
        pixels, labels, order = self._on(device, torch.arange(self.num_images))
        for rows in torch.split(order, batch_size):
            yield normalize(_take(pixels, rows), self.recipe), labels.index_select(0, rows)

    def _on(self, device: torch.device, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels and labels on a device, and the rows of them for `order`, positions in this split."""
        if device.type == "cpu":
            return self.pixels, self.labels, order if self.rows is None else self.rows[order]
        if device not in self._moved:  # copied once, only the rows of this split
            rows = torch.arange(self.num_images) if self.rows is None else self.rows
            self._moved[device] = _take(self.pixels, rows).to(device), self.labels[rows].to(device)
        return *self._moved[device], order.to(device)


def _take(pixels: Tensor, rows: Tensor) -> Tensor:
    # With channels last each image is contiguous, and index_select copies it as one run of bytes.
    return pixels.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
