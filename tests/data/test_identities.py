"""Tests of splits and batches by identity."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from graftpop.data.identities import held_out_identities, identity_batches, match_note, numbered
from graftpop.errors import DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(*counts: int) -> Tensor:
    """Return identity, camera and role of so many images of each identity."""
    return torch.tensor([[identity, camera, 3] for identity, count in enumerate(counts) for camera in range(count)])


@pytest.mark.parametrize("counts", [[5] * 8, [2, 9, 4, 4, 7, 30, 3, 5], [6] * 11, [6] * 10 + [5]])
@pytest.mark.parametrize("batch_size", [8, 16, 32])
def test_batches_have_k_images_of_distinct_identities(counts: list[int], batch_size: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    rows = identity_batches(labels, 4, batch_size, generator())
    assert len(rows) == -(-(len(labels) - 1) // batch_size) * batch_size  # one image alone makes no batch
    for batch in rows.split(batch_size):
        assert set(Counter(labels[batch].tolist()).values()) == {4}


def test_images_of_equally_large_identities_occur_equally_often() -> None:
    labels = torch.arange(6).repeat_interleave(8)
    rows = torch.cat([identity_batches(labels, 4, 8, generator(seed)) for seed in range(20)])
    counts = torch.bincount(rows, minlength=48)
    assert counts.sum() == 20 * 48
    assert 12 <= counts.min() <= counts.max() <= 28


def test_images_of_an_identity_come_in_random_order() -> None:
    labels = torch.zeros(8).long()
    turns = identity_batches(labels, 8, 8, generator(0)), identity_batches(labels, 8, 8, generator(1))
    assert all(sorted(turn.tolist()) == list(range(8)) for turn in turns)
    assert not torch.equal(*turns)


def test_batches_are_a_function_of_the_generator() -> None:
    labels = torch.arange(6).repeat_interleave(8)
    first, again, other = (identity_batches(labels, 4, 8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_identities_are_held_out_as_a_whole() -> None:
    labels = labels_of(3, 4, 5, 6, 7, 8, 9, 10)
    train, val = held_out_identities(labels, None, 0.25, generator())
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    identities = set(labels[val, 0].tolist())
    assert len(identities) == 2
    assert not identities & set(labels[train, 0].tolist())


def test_limit_of_images_takes_whole_identities() -> None:
    labels = labels_of(*[5] * 10)
    train, val = held_out_identities(labels, 33, 0.3, generator())
    assert (len(train), len(val)) == (20, 10)  # six identities, two of them held out
    train, val = held_out_identities(labels, 30, 0.3, generator())
    assert (len(train), len(val)) == (20, 10)


def test_seed_chooses_the_identities_to_hold_out() -> None:
    labels = labels_of(*[3] * 20)
    first, again, other = (held_out_identities(labels, None, 0.25, generator(seed))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_two_identities_are_left_to_train_on() -> None:
    with pytest.raises(DataError, match=r"got 3 and 2 of them"):
        held_out_identities(labels_of(4, 4, 4), None, 0.1, generator())


def test_identities_are_numbered_from_zero() -> None:
    assert numbered(torch.tensor([7, 3, 7, 9])).tolist() == [1, 0, 1, 2]


def test_queries_without_a_match_are_counted() -> None:
    assert match_note(labels_of(2, 2), "test") is None
    assert "1 of 3 queries" in str(match_note(labels_of(2, 1), "test"))
    with pytest.raises(DataError, match="test"):
        match_note(labels_of(1, 1), "test")
