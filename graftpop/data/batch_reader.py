"""Batches of images that are read one by one, by this process or by some of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["in_order", "read_batches", "shuffled"]

WORKER_LIMIT_S: Final = 300  # a batch that takes longer is an error


def shuffled(num_images: int, batch_size: int, seed: int) -> list[Tensor]:
    """Return the rows of each batch of an epoch, in an order that is a function of the seed.

    A last batch of one image is left out: BatchNorm cannot train on it.
    """
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return [rows for rows in torch.split(order, batch_size) if len(rows) > 1]


def in_order(num_images: int, batch_size: int) -> Sequence[Tensor]:
    """Return the rows of batches of all images, in their order."""
    return torch.split(torch.arange(num_images), batch_size)


def read_batches(
    items: Dataset[Any],
    batches: Sequence[Tensor],
    num_workers: int,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Yield the items of each batch, put together.

    Args:
        items: read by index.
        batches: the indices of each.
        num_workers: processes that read; 0 reads in this one.
        device: where the batches go next.
        collate: puts items together; None: as torch does.
    """
    return iter(
        DataLoader(
            items,
            batch_sampler=[rows.tolist() for rows in batches],
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator(),  # else the loader draws from the global one
            pin_memory=device.type == "cuda",
            timeout=WORKER_LIMIT_S if num_workers else 0,
        )
    )
