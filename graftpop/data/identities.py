"""Data of recognition: identities that are never divided between splits, and batches with several images of each.

A source of recognition has labels int64 (N, 3): identity, camera and role (`ops.retrieval`). Training identities are
numbered from 0. In validation every held-out image is both a query and a gallery image.
"""

from typing import Final

import torch
from torch import Tensor

from graftpop.data.batch_reader import count_training_batches
from graftpop.errors import DataError
from graftpop.ops.retrieval import GALLERY, QUERY, has_match

__all__ = ["check_identities", "held_out_identities", "identity_batches", "match_note", "numbered"]

BOTH: Final = QUERY | GALLERY
FEWEST: Final = 2
"""Identities in training and in validation."""


def held_out_identities(
    labels: Tensor, num_images: int | None, val_fraction: float | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the rows of the training images and of the held-out identities' images, both in ascending order.

    Args:
        labels: int64 (N, 3) of all training images.
        num_images: largest number of images to use, including those held out; identities are taken whole, in random
            order. None: all.
        val_fraction: share of the identities to hold out, in (0, 1); None: none.
        generator: source of the random order.

    Raises:
        DataError: fewer than two identities would be left to train on or to validate with.
    """
    identities, of_row, counts = torch.unique(labels[:, 0], return_inverse=True, return_counts=True)
    order = torch.randperm(len(identities), generator=generator)
    if num_images is not None:
        order = order[counts[order].cumsum(0) <= num_images]
    num_val = 0 if val_fraction is None else max(FEWEST, round(val_fraction * len(order)))
    if len(order) - num_val < FEWEST:
        raise DataError(
            f"data: at least {FEWEST} identities must be left to train on, got {len(order)} and {num_val} of them for "
            f"validation; raise data.max_train_images or lower data.val_fraction"
        )
    val, train = (torch.isin(of_row, chosen).nonzero().flatten() for chosen in (order[:num_val], order[num_val:]))
    return train, val


def numbered(identities: Tensor) -> Tensor:
    """Return identities (N,) numbered from 0, in ascending order."""
    _, numbers = torch.unique(identities, return_inverse=True)
    return numbers  # type: ignore[no-any-return]  # torch.unique is untyped


def match_note(targets: Tensor, where: str) -> str | None:
    """Return a line if some queries have no match, so that they are left out; None otherwise.

    Args:
        targets: int64 (N, 3).
        where: name of the split, for messages.

    Raises:
        DataError: no query has a match.
    """
    found = has_match(targets)
    num_found = int(found.sum())
    if not num_found:
        raise DataError(
            f"data: a query of {where} must have a match, an image of its identity by another camera, got none for "
            f"{len(found)} queries; check identities and cameras"
        )
    if num_found == len(found):
        return None
    return f"{where}: {len(found) - num_found:,} of {len(found):,} queries have no match and are left out"


def check_identities(num_identities: int, per_identity: int, batch_size: int) -> None:
    """Check that a batch can have `per_identity` images of each of its identities, all of them distinct.

    Raises:
        DataError: a batch would need more identities than there are to train on.
    """
    if num_identities * per_identity < batch_size:
        raise DataError(
            f"training.batch_size: must be at most {num_identities * per_identity} with the triplet loss, "
            f"task.images_per_identity ({per_identity}) of each of {num_identities} training identities, got "
            f"{batch_size}; lower it, or use more identities"
        )


def identity_batches(labels: Tensor, per_identity: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return the positions of an epoch's images in order: each batch has `per_identity` images of distinct identities.

    Identities and each identity's images are drawn in turns of random order, so that all occur about equally often. The
    epoch has as many batches as one without repetition, all of them full.

    Args:
        labels: int64 (N,), identities numbered from 0.
        per_identity: images of each identity in a batch.
        batch_size: images per batch, a multiple of `per_identity`.
        generator: source of the random order.

    Raises:
        DataError: a batch would need more identities than there are.

    References:
        Hermans et al., arXiv:1703.07737, section 2 ("PK batches").
    """
    num_identities = int(labels.max()) + 1
    check_identities(num_identities, per_identity, batch_size)
    at_once = batch_size // per_identity
    num_batches = count_training_batches(len(labels), batch_size)
    images = _Turns.of_groups(labels, num_identities, generator)
    identities: list[int] = []
    rows: list[int] = []
    for _ in range(num_batches):
        if len(identities) < at_once:
            waiting = set(identities)  # they come first; the new turn must not repeat them within this batch
            turn = torch.randperm(num_identities, generator=generator).tolist()
            identities += [one for one in turn if one not in waiting] + [one for one in turn if one in waiting]
        chosen, identities = identities[:at_once], identities[at_once:]
        for identity in chosen:
            rows += images[identity].take(per_identity)
    return torch.tensor(rows)


class _Turns:
    """Items in random order, reshuffled whenever all were taken."""

    def __init__(self, items: Tensor, generator: torch.Generator) -> None:
        self._items, self._generator = items, generator
        self._left: list[int] = []

    def take(self, number: int) -> list[int]:
        """Return the next items."""
        while len(self._left) < number:
            order = torch.randperm(len(self._items), generator=self._generator)
            self._left += self._items[order].tolist()
        taken, self._left = self._left[:number], self._left[number:]
        return taken

    @classmethod
    def of_groups(cls, labels: Tensor, num_groups: int, generator: torch.Generator) -> "list[_Turns]":
        """Return, for each label, its positions in `labels` as turns."""
        order = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=num_groups).tolist()
        return [cls(rows, generator) for rows in order.split(counts)]
