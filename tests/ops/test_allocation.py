"""Numbers of units that layers lose, against slow loops over units and weights in exact arithmetic."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.allocation import by_utilization, cross_layer, global_ranking, normalized, uniform

PERCENT = st.integers(0, 99)
LEAST = st.lists(st.integers(0, 5), min_size=5, max_size=5)
LAYERS = st.lists(st.lists(st.integers(-3, 3), max_size=8), max_size=5)
"""Scores with many ties, layer by layer; a layer may be empty."""

ROWS = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(-8, 8), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)
POWERS_OF_2 = st.integers(-3, 3).map(lambda power: 2.0**power)
EACH: dict[str, Callable[[float], list[int]]] = {
    "uniform": lambda rate: uniform([4], rate, [1]),
    "global_ranking": lambda rate: global_ranking([torch.ones(4)], rate, [1]),
    "cross_layer": lambda rate: cross_layer([torch.ones(4, 2)], [1.0], 1.0, rate, [1]),
}


def tensors(layers: Sequence[Sequence[object]]) -> list[Tensor]:
    return [torch.tensor(layer, dtype=torch.float32) for layer in layers]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_ranking(layers: Sequence[Sequence[float]], percent: int, least: Sequence[int]) -> list[int]:
    ranked = [
        (score, layer, unit)
        for layer, scores in enumerate(layers)
        for score, unit in sorted((score, unit) for unit, score in enumerate(scores))[
            : max(0, len(scores) - least[layer])
        ]
    ]
    dropped = sorted(ranked)[: percent * sum(map(len, layers)) // 100]
    return [sum(own == layer for _, own, _ in dropped) for layer in range(len(layers))]


def slow_cross_layer(
    layers: Sequence[list[list[int]]], flops: Sequence[float], exponent: int, percent: int, least: Sequence[int]
) -> list[int]:
    values = [
        [abs(weight) / Fraction(cost) ** exponent for row in rows for weight in row]
        for rows, cost in zip(layers, flops, strict=True)
    ]
    ranked = sorted((value for layer in values for value in layer), reverse=True)
    threshold = ranked[max(1, (100 - percent) * len(ranked) // 100) - 1]
    lost = []
    for rows, layer, kept_at_least in zip(layers, values, least, strict=True):
        share = Fraction(sum(value < threshold for value in layer), len(layer))
        kept = max(kept_at_least, math.floor(len(rows) * (1 - share)))
        lost.append(max(0, len(rows) - kept))
    return lost


# --- the same share everywhere ---


@given(st.lists(st.integers(0, 1200), max_size=5), PERCENT, LEAST)
def test_uniform_loss_equals_exact_arithmetic(sizes: list[int], percent: int, least: list[int]) -> None:
    least = least[: len(sizes)]
    assert uniform(sizes, percent / 100, least) == [
        max(0, min(percent * size // 100, size - kept)) for size, kept in zip(sizes, least, strict=True)
    ]


def test_rounding_error_does_not_save_a_unit() -> None:
    assert 0.29 * 100 < 29
    assert uniform([100, 10], 0.29, [1, 1]) == [29, 2]
    assert global_ranking([torch.arange(100)], 0.29, [1]) == [29]
    assert 100 * (1 - 0.9) < 10
    assert cross_layer([torch.arange(1, 101)[:, None]], [1.0], 0.0, 0.9, [1]) == [90]


# --- one ranking ---


@given(LAYERS, PERCENT, LEAST)
def test_ranking_equals_a_sort_of_all_units(layers: list[list[int]], percent: int, least: list[int]) -> None:
    least = least[: len(layers)]
    assert global_ranking(tensors(layers), percent / 100, least) == slow_ranking(layers, percent, least)


@given(LAYERS, PERCENT, LEAST)
def test_layers_keep_their_least_and_the_others_lose_for_them(
    layers: list[list[int]], percent: int, least: list[int]
) -> None:
    least = least[: len(layers)]
    lost = global_ranking(tensors(layers), percent / 100, least)
    most = [max(0, len(scores) - kept) for scores, kept in zip(layers, least, strict=True)]
    assert all(0 <= count <= limit for count, limit in zip(lost, most, strict=True))
    assert sum(lost) == min(percent * sum(map(len, layers)) // 100, sum(most))


def test_ties_are_ranked_in_layer_order_in_wide_layers() -> None:
    """A sort that is not stable fails here."""
    scores = [torch.arange(3000) % 2, torch.zeros(3000, dtype=torch.int64), torch.ones(3000, dtype=torch.int64)]
    assert global_ranking(scores, 1 / 3, [1, 1, 1]) == [1500, 1500, 0]
    assert global_ranking(scores, 2 / 3, [1, 1, 1]) == [2999, 2999, 2]


def test_infinite_scores_are_ranked_and_nan_is_refused() -> None:
    scores = [torch.tensor([1.0, math.inf, -math.inf]), torch.tensor([-math.inf, 0.0, -math.inf])]
    assert global_ranking(scores, 0.5, [1, 1]) == [1, 2]
    with pytest.raises(ValueError, match=r"^global_ranking: scores .* nan, got nan in layer 1"):
        global_ranking([torch.zeros(3), torch.tensor([0.0, math.nan])], 0.0, [1, 1])


@pytest.mark.parametrize("shape", [(7,), (1, 5)])
def test_scores_are_divided_by_their_norm(shape: tuple[int, ...]) -> None:
    scores = normal(*shape).flatten()
    norm = math.sqrt(math.fsum(score * score for score in scores.tolist()))
    assert normalized(scores).tolist() == pytest.approx([score / norm for score in scores.tolist()], rel=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalized_scores_do_not_depend_on_the_unit_of_the_scores(factor: float, dtype: torch.dtype) -> None:
    scores = torch.tensor([3.0, -4.0], dtype=dtype) * factor
    assert normalized(scores).tolist() == pytest.approx([0.6, -0.8], rel=1e-6)
    assert normalized(scores).dtype == dtype


def test_zeros_stay_zeros() -> None:
    assert normalized(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


# --- single weights of all layers ---


@given(
    st.lists(st.tuples(ROWS, POWERS_OF_2, st.integers(0, 4)), min_size=1, max_size=4),
    st.sampled_from([0, 1, 2, 10]),
    PERCENT,
)
def test_cross_layer_ranking_equals_a_sort_of_all_weights(
    layers: list[tuple[list[list[int]], float, int]], exponent: int, percent: int
) -> None:
    rows, flops, least = zip(*layers, strict=True)
    assert cross_layer(tensors(rows), flops, float(exponent), percent / 100, least) == slow_cross_layer(
        rows, flops, exponent, percent, least
    )


def test_layers_with_small_or_costly_weights_lose_more() -> None:
    small, large = torch.full((4, 3), 0.1), torch.full((4, 3), 1.0)
    assert cross_layer([small, large], [1.0, 1.0], 1.0, 0.5, [1, 1]) == [3, 0]
    assert cross_layer([small, large], [1.0, 9.0], 1.0, 0.5, [1, 1]) == [3, 0]  # 1 / 9 is above 0.1
    assert cross_layer([small, large], [1.0, 11.0], 1.0, 0.5, [1, 1]) == [0, 3]
    assert cross_layer([small, large], [1.0, 11.0], 0.0, 0.5, [1, 1]) == [3, 0]


def test_share_of_units_is_rounded_towards_losing_more() -> None:
    """7 of 12 weights are below the threshold: 3 * 5 / 12 units are 1."""
    weights = torch.arange(1, 13).reshape(3, 2, 2)
    assert cross_layer([weights], [1.0], 0.0, 7 / 12, [0]) == [2]
    assert cross_layer([weights], [1.0], 0.0, 8 / 12, [0]) == [2]
    assert cross_layer([weights], [1.0], 0.0, 9 / 12, [0]) == [3]
    assert cross_layer([weights], [1.0], 0.0, 9 / 12, [2]) == [1]


@pytest.mark.parametrize("size", [10, 49, 100])
def test_exact_shares_do_not_lose_a_unit_to_rounding(size: int) -> None:
    """10 * (1 - 9 / 10) is 0.99... in floats."""
    for num_below in range(size):
        weights = torch.arange(1, size + 1)[:, None]
        assert cross_layer([weights], [1.0], 0.0, num_below / size, [0]) == [num_below]


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rate_0_drops_nothing(layers: list[list[list[int]]]) -> None:
    assert cross_layer(tensors(layers), [3.0] * len(layers), 10.0, 0.0, [0] * len(layers)) == [0] * len(layers)


def test_highest_rate_keeps_the_largest_weight() -> None:
    weights = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])]
    assert cross_layer(weights, [1.0, 1.0], 0.0, 1 - 1e-12, [0, 0]) == [2, 1]


@pytest.mark.parametrize("unit", [1e-40, 1.0, 1e40])
def test_unit_of_the_flops_does_not_matter(unit: float) -> None:
    weights = [normal(6, 4, seed=seed) for seed in range(3)]
    expected = cross_layer(weights, [1.0, 1.1, 0.9], 10.0, 0.5, [1, 1, 1])
    assert len(set(expected)) == 3
    assert cross_layer(weights, [unit, 1.1 * unit, 0.9 * unit], 10.0, 0.5, [1, 1, 1]) == expected


def test_values_beyond_float32_are_ranked() -> None:
    """Divided by (2 ** 8) ** 20, weights of 1 are below float32's range, and yet the smaller is ranked lower."""
    weights = [torch.ones(2, 1), torch.tensor([[1.0], [3.0], [2.0], [4.0]])]
    assert cross_layer(weights, [1.0, 2.0**8], 20.0, 0.3, [0, 0]) == [0, 2]


@pytest.mark.parametrize("function", EACH.values(), ids=EACH)
@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_rate_outside_0_to_1_is_refused(function: Callable[[float], list[int]], rate: float) -> None:
    with pytest.raises(ValueError, match=r"^\w+: rate .* \[0, 1\), got rate="):
        function(rate)


@pytest.mark.parametrize("exponent", [-1.0, math.nan, math.inf])
def test_exponent_below_0_is_refused(exponent: float) -> None:
    with pytest.raises(ValueError, match=r"^cross_layer: exponent .* 0, got exponent="):
        cross_layer([torch.ones(2, 2)], [1.0], exponent, 0.5, [1])


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_flops_of_0_are_refused(cost: float) -> None:
    with pytest.raises(ValueError, match=r"^cross_layer: flops .* above 0, got \[1.0, "):
        cross_layer([torch.ones(2, 2)] * 2, [1.0, cost], 1.0, 0.5, [1, 1])


def test_lists_of_different_lengths_are_refused() -> None:
    ones = torch.ones(2, 2)
    for call in (
        partial(uniform, [2, 2], 0.5, [1]),
        partial(global_ranking, [ones[0]], 0.5, [1, 1]),
        partial(cross_layer, [ones, ones], [1.0], 1.0, 0.5, [1, 1]),
        partial(cross_layer, [ones, ones], [1.0, 1.0], 1.0, 0.5, [1]),
    ):
        with pytest.raises(ValueError, match="argument"):
            call()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 99))
def test_layers_of_equal_utilization_lose_the_rate(sizes: list[int], percent: int) -> None:
    least = [1] * len(sizes)
    found = by_utilization(sizes, [3.0] * len(sizes), percent / 100, least)
    assert found == uniform(sizes, percent / 100, least)


@given(st.lists(st.floats(0.1, 1.0), min_size=2, max_size=6), st.floats(0.0, 0.9))
def test_kept_shares_are_powers_by_utilization(utilizations: list[float], rate: float) -> None:
    sizes = [1000] * len(utilizations)
    found = by_utilization(sizes, utilizations, rate, [1] * len(sizes))
    mean = math.prod(utilizations) ** (1 / len(utilizations))
    for loss, value in zip(found, utilizations, strict=True):
        assert loss == pytest.approx(min(999, 1000 * (1 - (1 - rate) ** (mean / value))), abs=1.001)


def test_idle_layers_count_as_little_used() -> None:
    assert by_utilization([100, 100], [0.0, 1.0], 0.3, [1, 1]) == by_utilization([100, 100], [0.05, 1.0], 0.3, [1, 1])
    assert by_utilization([100, 100], [0.0, 0.0], 0.3, [1, 1]) == [30, 30]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_utilizations_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^by_utilization: utilizations .* got \["):
        by_utilization([4, 4], [1.0, value], 0.5, [1, 1])
