"""Batches of items that are read one by one, in this process or in worker processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["count_training_batches", "in_order", "read_batches", "shuffled"]

WORKER_LIMIT_S: Final = 300  # seconds per batch; a slower batch is an error


def count_training_batches(num_images: int, batch_size: int) -> int:
    """Return the number of training batches in an epoch; a last one of a single image is dropped.

    >>> count_training_batches(60, 30), count_training_batches(61, 30), count_training_batches(62, 30)
    (2, 2, 3)
    """
    return num_images // batch_size + (num_images % batch_size > 1)


def shuffled(num_images: int, batch_size: int, seed: int) -> list[Tensor]:
    """Return the rows of each batch of an epoch, in random order.

    A last batch of one image is dropped: BatchNorm cannot train on it.

    Args:
        num_images: size of the split.
        batch_size: rows per batch; the last batch may be smaller.
        seed: fixes the order.
    """
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return [rows for rows in torch.split(order, batch_size) if len(rows) > 1]


def in_order(num_images: int, batch_size: int) -> Sequence[Tensor]:
    """Return the rows of each batch, all images in order."""
    return torch.split(torch.arange(num_images), batch_size)


def read_batches(
    items: Dataset[Any],
    batches: Sequence[Tensor],
    num_workers: int,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Yield the collated items of each batch.

    Args:
        items: map-style data set.
        batches: indices of the items of each batch.
        num_workers: processes that read; 0 reads in this process.
        device: torch device to which the caller moves the batches; memory is pinned for CUDA.
        collate: joins a list of items into a batch; None: torch's default.
    """
    return iter(
        DataLoader(
            items,
            batch_sampler=[rows.tolist() for rows in batches],
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator(),  # otherwise the loader draws from the global generator
            pin_memory=device.type == "cuda",
            timeout=WORKER_LIMIT_S if num_workers else 0,
        )
    )
