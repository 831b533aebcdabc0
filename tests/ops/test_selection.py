"""Selection of units: the lowest scores, and the middle of a layer against the released loop over k."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.selection import k_reciprocal, lowest

ROWS = st.integers(1, 3).flatmap(
    lambda size: st.lists(st.lists(st.integers(-4, 4), min_size=size, max_size=size), min_size=1, max_size=9)
)
"""Few values: many units are equal or equally distant."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_selection(rows: Sequence[Sequence[float]], num_kept: int) -> list[int]:
    neighbors = []
    for i, row in enumerate(rows):
        distances = [
            math.fsum((value - other) ** 2 for value, other in zip(row, others, strict=True)) for others in rows
        ]
        neighbors.append([j for _, _, j in sorted((j != i, distance, j) for j, distance in enumerate(distances))])

    def common(k: int) -> set[int]:
        return set.intersection(*(set(row[:k]) for row in neighbors))

    k = num_kept
    while len(common(k)) < num_kept:
        k += 1
    if len(common(k)) == num_kept:
        return sorted(common(k))
    kept = common(k - 1)
    added = sorted(common(k) - kept)[: num_kept - len(kept)]
    return sorted(kept.union(added))


def test_units_between_the_others_are_kept() -> None:
    assert k_reciprocal(torch.tensor([[0.0], [1.0], [1.1], [5.0]]), 2).tolist() == [1, 2]


@given(ROWS, st.data())
def test_selection_equals_the_released_loop(rows: list[list[int]], data: st.DataObject) -> None:
    num_kept = data.draw(st.integers(1, len(rows)))
    kept = k_reciprocal(torch.tensor(rows) / 4, num_kept)
    assert kept.dtype == torch.int64
    assert kept.tolist() == slow_selection(rows, num_kept)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e3])
@pytest.mark.parametrize("num_kept", [1, 4, 9, 12])
def test_selection_of_drawn_filters_equals_the_released_loop(num_kept: int, scale: float) -> None:
    """In the released code exp(-d) is 0 for distant filters, and 1 for small ones."""
    weight = normal(12, 3, 2, 2) * scale
    assert k_reciprocal(weight, num_kept).tolist() == slow_selection(weight.flatten(1).tolist(), num_kept)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_digits_are_kept_far_from_the_origin(offset: float) -> None:
    weight = (normal(12, 8) * 64).round() / 64
    assert k_reciprocal(weight + offset, 5).tolist() == slow_selection(weight.tolist(), 5)


@pytest.mark.parametrize("seed", range(5))
def test_equal_filters_are_ordered_by_index(seed: int) -> None:
    chosen = torch.randint(10, (30,), generator=torch.Generator().manual_seed(seed))
    weight = normal(10, 200, seed=seed)[chosen]
    for num_kept in (1, 4, 10, 20, 28):
        assert k_reciprocal(weight, num_kept).tolist() == slow_selection(weight.tolist(), num_kept)


def test_equally_good_filters_are_kept_in_the_order_of_their_indices() -> None:
    """On a circle each filter is the furthest from one other. A sort that is not stable fails here."""
    angles = torch.arange(400).double() * (2 * math.pi / 400)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    assert k_reciprocal(circle, 150).tolist() == list(range(150))


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_layer_of_equal_filters_keeps_the_first(value: float) -> None:
    """All but the first are last among the neighbors of another."""
    assert k_reciprocal(torch.full((40, 27), value), 3).tolist() == [0, 1, 2]


def test_argument_is_unchanged_and_result_has_no_graph() -> None:
    weight = normal(6, 4).requires_grad_()
    before = weight.detach().clone()
    assert not k_reciprocal(weight, 3).requires_grad
    assert torch.equal(weight, before)


@pytest.mark.parametrize("num_kept", [-1, 0, 5])
def test_number_outside_1_to_the_number_of_units_is_refused(num_kept: int) -> None:
    with pytest.raises(ValueError, match=r"^k_reciprocal: num_kept .* \[1, 4\], got num_kept="):
        k_reciprocal(torch.zeros(4, 2), num_kept)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 30))
def test_lowest_are_the_first_of_a_stable_sort(scores: list[int], count: int) -> None:
    order = sorted(range(len(scores)), key=lambda number: (scores[number], number))
    found = lowest(torch.tensor(scores, dtype=torch.float32), min(count, len(scores)))
    assert found.dtype == torch.int64
    assert found.tolist() == order[: min(count, len(scores))]


def test_ties_are_ordered_by_index_in_a_wide_layer() -> None:
    """A sort that is not stable fails here."""
    assert lowest(torch.arange(4000) % 2, 2000).tolist() == list(range(0, 4000, 2))


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^lowest: scores .*\(O,\), got \(4, 1\)"):
        lowest(torch.zeros(4, 1), 2)
