"""Overlaps of RePr against a loop over pairs, and the orthogonality of its new filters."""

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from graftpop.ops.orthogonal import orthogonal_filters, overlaps

FEW = st.integers(0, 6)
SEEDS = st.integers(0, 2**32 - 1)
LAYERS = (
    st.integers(1, 12)
    .flatmap(
        lambda size: st.lists(st.lists(st.integers(-64, 64), min_size=size, max_size=size), min_size=1, max_size=6)
    )
    .map(lambda rows: torch.tensor(rows) / 64)
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def slow_overlaps(weight: Tensor) -> list[float]:
    filters = [[float(value) for value in a_filter.flatten()] for a_filter in weight]
    lengths = [math.sqrt(sum(value * value for value in a_filter)) for a_filter in filters]
    results = []
    for f in range(len(filters)):
        total = 0.0
        for g in range(len(filters)):
            if g != f and lengths[f] > 0 and lengths[g] > 0:
                product = sum(left * right for left, right in zip(filters[f], filters[g], strict=True))
                total += abs(product) / (lengths[f] * lengths[g])
        results.append(total / len(filters))
    return results


def unit(weight: Tensor) -> NDArray[np.float64]:
    rows = weight.double().flatten(1).numpy()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def rank(*weights: Tensor) -> int:
    return int(np.linalg.matrix_rank(np.concatenate([unit(weight) for weight in weights]), tol=1e-5))


def largest_cosine(left: Tensor, right: Tensor) -> float:
    return float(np.abs(unit(left) @ unit(right).T).max(initial=0.0))


def largest_cosine_within(weight: Tensor) -> float:
    cosines = unit(weight) @ unit(weight).T
    return float(np.abs(cosines - np.diag(np.diag(cosines))).max(initial=0.0))


def norms(weight: Tensor) -> list[float]:
    return [float(length) for length in np.linalg.norm(weight.double().flatten(1).numpy(), axis=1)]


@given(LAYERS)
def test_overlaps_equal_a_loop_over_pairs(weight: Tensor) -> None:
    assert overlaps(weight).tolist() == pytest.approx(slow_overlaps(weight), abs=1e-6)


@given(LAYERS)
def test_overlaps_are_shares_of_the_other_filters(weight: Tensor) -> None:
    result = overlaps(weight)
    assert result.min() >= 0.0
    assert result.max() <= 1 - 1 / len(weight) + 1e-6


@given(LAYERS, st.randoms(use_true_random=False))
def test_overlaps_move_with_their_filters(weight: Tensor, random: Random) -> None:
    order = list(range(len(weight)))
    random.shuffle(order)
    assert torch.allclose(overlaps(weight[order]), overlaps(weight)[order], atol=1e-6)


@given(LAYERS, st.lists(st.sampled_from([-1e18, -2.0, 1e-30, 0.1, 1e18]), min_size=6, max_size=6))
def test_size_and_sign_of_filters_do_not_change_overlaps(weight: Tensor, factors: list[float]) -> None:
    scaled = weight * torch.tensor(factors[: len(weight)])[:, None]
    assert torch.allclose(overlaps(scaled), overlaps(weight), atol=1e-5)


def test_repeated_filters_overlap_and_orthogonal_ones_do_not() -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert overlaps(weight).tolist() == [0.25, 0.25, 0.0, 0.0]
    assert overlaps(torch.eye(5)).tolist() == [0.0] * 5


def test_overlaps_of_opposite_sign_do_not_cancel() -> None:
    """The released code takes the absolute value after the mean: there the first filter would overlap with nothing."""
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]])
    assert overlaps(weight)[0].item() == pytest.approx(math.sqrt(2) / 3, abs=1e-6)


def test_zero_filter_overlaps_with_nothing() -> None:
    assert overlaps(torch.zeros(3, 4)).tolist() == [0.0, 0.0, 0.0]
    assert overlaps(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])).tolist() == pytest.approx([0, 1 / 3, 1 / 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_overlaps_are_float32_in_every_layout_and_number_format(dtype: torch.dtype) -> None:
    weight = (normal(8, 4, 3, 3) * 8).round() / 8
    assert overlaps(weight.to(dtype)).dtype == torch.float32
    assert torch.equal(overlaps(weight.to(dtype)), overlaps(weight))
    assert torch.equal(overlaps(weight.to(memory_format=torch.channels_last)), overlaps(weight))


@given(FEW, FEW, st.integers(0, 9), SEEDS)
def test_new_filters_are_orthogonal_if_dimensions_suffice(
    num_dropped: int, num_kept: int, spare: int, seed: int
) -> None:
    fan_in = max(1, num_kept + 2 * num_dropped + spare)
    dropped, kept = normal(num_dropped, fan_in, seed=seed), normal(num_kept, fan_in, seed=seed + 1)
    new = orthogonal_filters(dropped, kept, generator(seed + 2))
    assert max(largest_cosine(new, kept), largest_cosine(new, dropped), largest_cosine_within(new)) < 1e-6
    mean_norm = np.mean(norms(kept)) if num_kept else 1.0
    assert norms(new) == pytest.approx([mean_norm] * num_dropped, rel=1e-6)


@given(FEW, FEW, st.integers(1, 16), st.integers(1, 6), SEEDS)
def test_fallbacks_keep_the_possible_orthogonality(
    num_dropped: int, num_kept: int, fan_in: int, true_rank: int, seed: int
) -> None:
    """A layer of low rank leaves more free dimensions than its number of filters suggests."""
    span = normal(true_rank, fan_in, seed=seed)
    dropped, kept = (normal(number, true_rank, seed=seed + number + 1) @ span for number in (num_dropped, num_kept))
    new = orthogonal_filters(dropped, kept, generator(seed))
    num_free = fan_in - rank(kept)
    held = new if num_free >= num_dropped else new[:num_free]
    assert max(largest_cosine(held, kept), largest_cosine_within(held)) < 1e-5
    if fan_in - rank(kept, dropped) >= num_dropped:
        assert largest_cosine(new, dropped) < 1e-5
    assert new.shape == dropped.shape
    assert norms(new) == pytest.approx([np.mean(norms(kept)) if num_kept else 1.0] * num_dropped, rel=1e-5)


@pytest.mark.parametrize(
    ("fan_in", "avoids_old", "num_orthogonal"),
    [
        (11, True, 3),  # 5 kept + 3 old + 3 new: just enough
        (10, False, 3),
        (8, False, 3),  # 5 kept + 3 new: just enough
        (7, False, 2),
        (5, False, 0),
        (2, False, 0),
    ],
)
def test_fallbacks_ignore_old_values_first_then_single_filters(
    fan_in: int, avoids_old: bool, num_orthogonal: int
) -> None:
    dropped, kept = normal(3, fan_in, seed=1), normal(5, fan_in, seed=2)
    new = orthogonal_filters(dropped, kept, generator())
    assert (largest_cosine(new, dropped) < 1e-6) == avoids_old
    assert [largest_cosine(a_filter[None], kept) < 1e-6 for a_filter in new] == [
        index < num_orthogonal for index in range(3)
    ]
    assert largest_cosine_within(new[:num_orthogonal]) < 1e-6
    assert norms(new) == pytest.approx([np.mean(norms(kept))] * 3, rel=1e-6)


def test_copies_and_zero_filters_use_no_dimension() -> None:
    one = normal(1, 2, 2, 2)
    dropped, kept = torch.cat([2 * one, -one, 0 * one, 1e-20 * one]), torch.cat([one * 0.3, one / 3, 0 * one])
    new = orthogonal_filters(dropped, kept, generator(1))
    assert max(largest_cosine(new, one), largest_cosine_within(new)) < 1e-6


def test_near_copies_are_both_avoided() -> None:
    one, other = torch.eye(4)[:2]
    for difference in (1e-1, 1e-3, 1e-5):
        kept = torch.stack([one, one + difference * other])
        assert largest_cosine(orthogonal_filters(torch.zeros(2, 4), kept, generator()), kept) < 1e-6


def test_nearly_zero_filter_is_avoided() -> None:
    dropped, kept = normal(2, 12, seed=1) * 1e-30, normal(4, 12, seed=2) * torch.logspace(-25, 5, 4)[:, None]
    new = orthogonal_filters(dropped, kept, generator())
    assert max(largest_cosine(new, dropped), largest_cosine(new, kept), largest_cosine_within(new)) < 1e-6


def test_new_filters_have_norm_1_without_nonzero_kept_filters() -> None:
    for kept in (torch.zeros(0, 3, 3, 3), torch.zeros(4, 3, 3, 3)):
        new = orthogonal_filters(normal(5, 3, 3, 3) * 7, kept, generator())
        assert norms(new) == pytest.approx([1.0] * 5, rel=1e-6)


def test_without_dropped_filters_there_are_no_new_ones() -> None:
    for kept in (normal(4, 3, 2, 2), torch.zeros(0, 3, 2, 2)):
        assert orthogonal_filters(torch.zeros(0, 3, 2, 2), kept, generator()).shape == (0, 3, 2, 2)


def test_new_filters_are_orthogonal_in_the_largest_vgg_layer() -> None:
    weight = normal(512, 512, 3, 3) * 0.02
    new = orthogonal_filters(weight[:150], weight[150:], generator(1))
    assert max(largest_cosine(new, weight), largest_cosine_within(new)) < 1e-6


def test_free_directions_are_equally_likely() -> None:
    """Beside two kept axes and an old one, three of six are free, and two new filters are drawn in them."""
    axes = torch.eye(6)
    drawn = torch.stack([orthogonal_filters(axes[[2, 2]], axes[:2], generator(seed)) for seed in range(2000)])
    assert drawn[:, :, :3].abs().max() < 1e-6
    assert drawn[:, :, 3:].mean(0).abs().max() < 0.06  # deviation of the mean: 0.013
    moments = torch.einsum("nfi,nfj->fij", drawn, drawn)[:, 3:, 3:] / len(drawn)
    assert torch.allclose(moments, torch.eye(3).expand(2, 3, 3) / 3, atol=0.04)


def test_both_orientations_are_equally_likely() -> None:
    """Two new filters in two dimensions, where a QR decomposition by itself gives one orientation only."""
    dropped, kept = torch.zeros(2, 2), torch.zeros(0, 2)
    orientations = [torch.linalg.det(orthogonal_filters(dropped, kept, generator(seed))).item() for seed in range(400)]
    assert np.abs(orientations) == pytest.approx(np.ones(400), abs=1e-6)
    assert abs(np.mean(orientations)) < 0.2  # four deviations


@pytest.mark.parametrize("fan_in", [30, 12, 7])
def test_new_filters_depend_on_the_generator_alone(fan_in: int) -> None:
    dropped, kept = normal(4, fan_in, seed=1), normal(6, fan_in, seed=2)
    before = torch.random.get_rng_state()
    new = orthogonal_filters(dropped, kept, generator(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(new, orthogonal_filters(dropped, kept, generator(5)))
    assert not torch.equal(new, orthogonal_filters(dropped, kept, generator(6)))


def test_every_fallback_draws_equally_often_from_the_generator() -> None:
    places = []
    for kept in (normal(1, 12), normal(8, 12), normal(20, 12)):
        used = generator(5)
        orthogonal_filters(normal(3, 12, seed=1), kept, used)
        places.append(used.get_state())
    assert torch.equal(places[0], places[1])
    assert torch.equal(places[0], places[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_new_filters_keep_the_number_format(dtype: torch.dtype) -> None:
    dropped, kept = normal(2, 3, 3, 3, seed=1).to(dtype), normal(6, 3, 3, 3, seed=2).to(dtype)
    new = orthogonal_filters(dropped, kept, generator())
    assert new.dtype == dtype
    assert largest_cosine(new, kept) < 0.01 if dtype.itemsize == 2 else largest_cosine(new, kept) < 1e-6


def test_new_filters_do_not_depend_on_the_memory_layout() -> None:
    dropped, kept = normal(2, 3, 3, 3, seed=1), normal(6, 3, 3, 3, seed=2)
    strided = [part.to(memory_format=torch.channels_last) for part in (dropped, kept)]
    new = orthogonal_filters(strided[0], strided[1], generator())
    assert torch.allclose(new, orthogonal_filters(dropped, kept, generator()), atol=1e-6)


def test_arguments_are_unchanged_and_untracked() -> None:
    weight = normal(8, 3, 3, 3).requires_grad_()
    before = weight.detach().clone()
    new = orthogonal_filters(weight[:2], weight[2:], generator())
    assert not new.requires_grad
    assert not overlaps(weight).requires_grad
    assert torch.equal(weight, before)


def test_filters_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"orthogonal_filters: .*got \(3, 1\) dropped and \(1, 3\) kept"):
        orthogonal_filters(normal(2, 3, 1), normal(2, 1, 3), generator())
