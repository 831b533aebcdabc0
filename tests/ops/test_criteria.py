"""Scores of filters against closed forms and slow loops, and properties of every criterion."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise, permutations, product
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from graftpop.ops.criteria import (
    CRITERIA,
    Criterion,
    Filters,
    bn_activation,
    bn_scale,
    entropy,
    geometric_median,
    l1,
    l2,
    orthogonality,
    passive,
    random,
)
from graftpop.ops.entropy import filter_entropies
from graftpop.ops.importance import filter_l1_norms
from graftpop.ops.orthogonal import overlaps

JUDGED = {name: criterion for name, criterion in CRITERIA.items() if name != "random"}
"""Criteria that depend on the filters."""


def mapped(change: Callable[[Any], Tensor], parts: Iterable[Any]) -> Filters:
    """Return filters whose parts are those given, each changed; None stays None."""
    weight, *batchnorm = (None if part is None else change(part) for part in parts)
    assert weight is not None
    return Filters(weight, *batchnorm)


NUMBERS = st.integers(-64, 64)
LAYERS = (
    st.tuples(st.integers(1, 6), st.integers(1, 12))
    .flatmap(
        lambda sizes: st.tuples(
            st.lists(st.lists(NUMBERS, min_size=sizes[1], max_size=sizes[1]), min_size=sizes[0], max_size=sizes[0]),
            *[st.none() | st.lists(NUMBERS, min_size=sizes[0], max_size=sizes[0])] * 2,
        )
    )
    .map(lambda parts: mapped(lambda part: torch.tensor(part) / 64, parts))
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def layer(seed: int = 0) -> Filters:
    return Filters(normal(8, 4, 3, 3, seed=seed), normal(8, seed=seed + 1), normal(8, seed=seed + 2))


def activations(*pairs: tuple[float, float]) -> list[float]:
    """Return the mean activation by pairs of scale and shift."""
    scale, shift = torch.tensor(pairs, dtype=torch.float64).T
    scores: list[float] = bn_activation(Filters(torch.zeros(len(pairs), 1), scale, shift), generator()).tolist()
    return scores


@given(LAYERS)
def test_scores_equal_loops_over_filters(filters: Filters) -> None:
    rows = filters.weight.tolist()
    assert l1(filters, generator()).tolist() == pytest.approx([sum(map(abs, row)) for row in rows], rel=1e-6)
    assert l2(filters, generator()).tolist() == pytest.approx([math.hypot(*row) for row in rows], rel=1e-6)
    assert geometric_median(filters, generator()).tolist() == pytest.approx(
        [sum(math.dist(row, other) for other in rows) for row in rows], rel=1e-5
    )
    scale = [1.0] * len(rows) if filters.scale is None else filters.scale.tolist()
    assert bn_scale(filters, generator()).tolist() == [abs(value) for value in scale]


@given(LAYERS)
def test_scores_equal_those_of_the_underlying_functions(filters: Filters) -> None:
    assert torch.equal(l1(filters, generator()), filter_l1_norms(filters.weight))
    assert torch.equal(entropy(filters, generator()), filter_entropies(filters.weight).float())
    assert torch.equal(orthogonality(filters, generator()), -overlaps(filters.weight))


@given(st.floats(-4, 4), st.floats(0.01, 4), st.booleans())
def test_mean_activation_equals_the_integral_over_the_activations(
    shift: float, deviation: float, is_negative: bool
) -> None:
    expected, _ = integrate.quad(
        lambda x: x * stats.norm.pdf(x, shift, deviation),
        max(0.0, shift - 12 * deviation),
        max(0.0, shift + 12 * deviation),
        epsabs=1e-12,
    )
    result = activations((-deviation if is_negative else deviation, shift))
    assert result == pytest.approx([expected], rel=1e-5, abs=1e-9)


def test_mean_activation_has_known_values() -> None:
    root = math.sqrt(2 * math.pi)
    assert activations((1.0, 0.0), (-2.0, 0.0), (1.0, 1.0)) == pytest.approx(
        [1 / root, 2 / root, 0.8413447461 + math.exp(-0.5) / root], rel=1e-6
    )


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-320, 1e-40, 1e-9])
def test_mean_activation_without_spread_is_that_of_the_mean(scale: float) -> None:
    assert activations((scale, 1.5), (scale, -1.5), (scale, 0.0)) == pytest.approx([1.5, 0.0, 0.0], abs=1e-8)
    assert activations((0.0, 1.5), (0.0, -1.5), (0.0, 0.0)) == [1.5, 0.0, 0.0]


def test_mean_activation_is_accurate_far_below_zero() -> None:
    """At z deviations below 0 it is phi(z) / z^2 * (1 - 3 / z^2 + 15 / z^4 - 105 / z^6 + ...)."""
    for z in (9.0, 11.0, 13.0):  # further out it is no normal number of float32
        series = 1 - 3 / z**2 + 15 / z**4 - 105 / z**6 + 945 / z**8
        assert activations((1.0, -z)) == pytest.approx([stats.norm.pdf(z) / z**2 * series], rel=1e-4, abs=0)
    scores = activations(*((1.0, -z / 10) for z in range(500)))
    assert all(later <= earlier for earlier, later in pairwise(scores))
    assert min(scores) == 0.0


def test_batchnorm_defaults_to_scale_1_and_shift_0() -> None:
    filters = layer()
    ones, zeros = torch.ones(8), torch.zeros(8)
    for scale, shift in product((None, filters.scale), (None, filters.shift)):
        given_ones = Filters(filters.weight, ones if scale is None else scale, zeros if shift is None else shift)
        for criterion in (bn_scale, bn_activation):
            assert torch.equal(
                criterion(Filters(filters.weight, scale, shift), generator()), criterion(given_ones, generator())
            )


def test_larger_filters_score_higher() -> None:
    weight = torch.tensor([[0.1, -0.1, 0.1, 0.0], [2.0, -1.0, 0.5, 0.0]])
    filters = Filters(weight, scale=torch.tensor([0.1, -2.0]), shift=torch.tensor([-1.0, 1.0]))
    for criterion in (l1, l2, entropy, bn_scale, bn_activation):
        low, high = criterion(filters, generator()).tolist()
        assert low < high, criterion.__name__


def test_duplicate_filters_score_lowest() -> None:
    one, other, third = torch.eye(3)
    duplicates = Filters(torch.stack([one, other, third, one]))
    for criterion in (orthogonality, geometric_median):
        first, second, _, fourth = criterion(duplicates, generator()).tolist()
        assert first == fourth < second, criterion.__name__


def test_filter_at_the_geometric_median_scores_lowest() -> None:
    weight = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [1.0, -1.0]])
    scores = geometric_median(Filters(weight), generator())
    assert scores.argmin() == 2
    assert scores[2].item() == pytest.approx(4 * math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("size", [1, 27, 4608])
def test_equal_filters_have_distance_0(size: int) -> None:
    weight = (normal(1, size) * 100).expand(40, size)
    assert geometric_median(Filters(weight), generator()).tolist() == [0.0] * 40


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    near = (normal(30, 64) * 64).round() / 64
    assert torch.allclose(
        geometric_median(Filters(near + 1000), generator()), geometric_median(Filters(near), generator()), rtol=1e-5
    )


def test_zero_filter_is_most_orthogonal_and_has_least_norm() -> None:
    weight = torch.cat([torch.zeros(1, 36), normal(5, 36)])
    assert orthogonality(Filters(weight), generator()).argmax() == 0
    assert l1(Filters(weight), generator()).argmin() == l2(Filters(weight), generator()).argmin() == 0


def slow_passive(weight: Tensor) -> list[float]:
    """Return the scores by singular value decompositions, channel by channel; all singular values must differ."""
    filters = weight.double().numpy().reshape(len(weight), weight.shape[1], -1)
    centered = filters - filters.mean(0)
    channels = range(centered.shape[1])
    patterns = [np.linalg.svd(centered[:, channel])[2][0] for channel in channels]
    responses = np.array([[row[channel] @ patterns[channel] for channel in channels] for row in centered])
    signs = np.sign(np.linalg.svd(responses)[2][0])
    scores = [sum(sign * response for sign, response in zip(signs, row, strict=True)) ** 2 for row in responses]
    return [float(score / max(scores)) for score in scores]


def passive_scores(weight: Tensor) -> list[float]:
    scores: list[float] = passive(Filters(weight), generator()).tolist()
    return scores


def test_passive_scores_of_one_channel_have_known_values() -> None:
    weight = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]], [[-2.0, 0.0]], [[4.0, 0.0]]])
    assert passive_scores(weight) == pytest.approx([1 / 9, 1 / 9, 1.0, 1.0], rel=1e-6)


@pytest.mark.parametrize(
    "shape", [(8, 4, 3, 3), (5, 1, 3, 3), (4, 6, 5, 5), (16, 3, 7), (9, 5), (4, 30, 1, 1), (2, 3, 4)]
)
def test_passive_scores_equal_a_decomposition_of_each_channel(shape: tuple[int, ...]) -> None:
    for seed in range(3):
        weight = normal(*shape, seed=seed) + 0.3
        assert passive_scores(weight) == pytest.approx(slow_passive(weight), rel=1e-4, abs=1e-6)


@given(
    st.lists(NUMBERS, min_size=2, max_size=6, unique=True),
    st.lists(NUMBERS.filter(bool), min_size=1, max_size=4),
    st.lists(NUMBERS.filter(bool), min_size=1, max_size=4),
)
def test_channels_that_separate_the_filters_alike_do_not_cancel(
    strengths: list[int], channels: list[int], pattern: list[int]
) -> None:
    """W_jik = a_j b_i v_k has the scores (a_j - mean a)^2 for any signs of b, even if its sum is 0."""
    weight = torch.einsum("j,i,k->jik", *(torch.tensor(part) / 64.0 for part in (strengths, channels, pattern)))
    mean = sum(strengths) / len(strengths)
    squares = [(strength - mean) ** 2 for strength in strengths]
    assert passive_scores(weight) == pytest.approx([square / max(squares) for square in squares], rel=1e-4, abs=1e-6)


def test_channels_with_opposite_kernels_count_twice() -> None:
    one = normal(6, 1, 3, 3)
    assert passive_scores(torch.cat([one, -one], 1)) == pytest.approx(passive_scores(one), rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (9, 5)])
@pytest.mark.parametrize("change", ["shift", "scale", "tiny", "negative", "channels", "positions"])
def test_passive_scores_keep_under_symmetries(shape: tuple[int, ...], change: str) -> None:
    weight = normal(*shape)
    changed = {
        "shift": weight + 3 * normal(1, *shape[1:], seed=1),
        "scale": weight * 1e-20,
        "tiny": weight.double() * 1e-200,
        "negative": -weight,
        "channels": weight.flip(1),
        "positions": weight.flip(-1),
    }[change]
    assert passive_scores(changed) == pytest.approx(passive_scores(weight), rel=1e-4)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda shape: st.lists(st.integers(-1, 1), min_size=math.prod(shape), max_size=math.prod(shape)).map(
            lambda values: torch.tensor(values, dtype=torch.float32).reshape(shape)
        )
    ),
    st.randoms(use_true_random=False),
)
def test_passive_scores_move_with_their_filters_in_layers_with_ties(weight: Tensor, shuffled: Random) -> None:
    """Such layers have equal singular values, and responses of 0 to the common direction."""
    order = list(range(len(weight)))
    shuffled.shuffle(order)
    expected = passive_scores(weight)
    assert passive_scores(weight[order]) == pytest.approx([expected[index] for index in order], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "rows",
    [
        [
            [[0, 1, 0], [1, -1, -1], [-1, -1, -1]],
            [[-1, 0, 1], [1, 0, 0], [0, 1, 1]],
            [[1, -1, -1], [0, 0, -1], [1, -1, 0]],
        ],
        [[[0], [-0.1], [0], [0]], [[0], [0.1], [-0.1], [0.1]], [[0], [0], [0], [0.1]], [[0], [0.1], [0], [-0.1]]],
        [[[0.1, 0, 0.1], [0.1, 0, -0.1]], [[0, 0, 0], [0, 0, 0]], [[0.1, 0.1, 0.1], [0, -0.1, 0]]],
    ],
    ids=["equal values", "equal values, one position", "equal positions"],
)
def test_rounding_does_not_break_ties(rows: list[list[list[float]]]) -> None:
    weight = torch.tensor(rows)
    expected = passive_scores(weight)
    for order in permutations(range(len(rows))):
        assert passive_scores(weight[list(order)]) == pytest.approx([expected[index] for index in order], rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_rounding_does_not_choose_the_sign_of_a_channel_without_part_in_the_common_direction(seed: int) -> None:
    """The channels separate the filters in orthogonal ways, the first one the most."""
    drawn = normal(6, 3, seed=seed).double()
    weight = torch.linalg.qr(drawn - drawn.mean(0))[0] * torch.tensor([1.0, 0.5, 0.2])
    expected = (weight.sum(1) ** 2 / (weight.sum(1) ** 2).max()).tolist()
    for order in (torch.randperm(6, generator=generator(shuffled)).tolist() for shuffled in range(24)):
        assert passive_scores(weight[order]) == pytest.approx([expected[index] for index in order], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 3, 3, 3), (7, 4), (3, 40)])
def test_equal_filters_have_a_passive_score_of_0(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = normal(1, *shape[1:]).to(dtype) / 3
    assert passive_scores(weight.expand(shape)) == [0.0] * shape[0]


@pytest.mark.parametrize("criterion", JUDGED.values(), ids=JUDGED)
@given(filters=LAYERS, shuffled=st.randoms(use_true_random=False))
def test_scores_move_with_their_filters(criterion: Criterion, filters: Filters, shuffled: Random) -> None:
    order = list(range(len(filters.weight)))
    shuffled.shuffle(order)
    moved = mapped(lambda part: part[order], filters)
    assert torch.allclose(criterion(moved, generator()), criterion(filters, generator())[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("criterion", JUDGED.values(), ids=JUDGED)
def test_deterministic_criteria_leave_the_generator_unchanged(criterion: Criterion) -> None:
    used = generator()
    criterion(layer(), used)
    assert torch.equal(used.get_state(), generator().get_state())


def test_random_scores_are_uniform_and_depend_on_the_generator() -> None:
    many = Filters(torch.zeros(10_000, 1))
    before = torch.random.get_rng_state()
    scores = random(many, generator(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(scores, random(many._replace(weight=normal(10_000, 2)), generator(3)))
    assert not torch.equal(scores, random(many, generator(4)))
    assert stats.kstest(scores.numpy(), "uniform").pvalue > 0.01
    assert 0.0 <= scores.min() <= scores.max() < 1.0


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_float32_in_every_number_format(criterion: Criterion, dtype: torch.dtype) -> None:
    exact = Filters(*((part * 8).round() / 8 for part in layer() if part is not None))
    scores = criterion(Filters(*(part.to(dtype) for part in exact if part is not None)), generator())
    assert scores.dtype == torch.float32
    assert scores.shape == (8,)
    assert torch.equal(scores, criterion(exact, generator()))


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_scores_ignore_the_memory_layout_and_keep_arguments(criterion: Criterion) -> None:
    plain = layer()
    tracked = Filters(*(part.clone().requires_grad_() for part in plain if part is not None))
    with_layout = tracked._replace(weight=tracked.weight.to(memory_format=torch.channels_last))
    scores = criterion(with_layout, generator())
    assert not scores.requires_grad
    assert torch.allclose(scores, criterion(plain, generator()), rtol=1e-5)
    assert all(
        torch.equal(after, before)
        for after, before in zip(tracked, plain, strict=True)
        if after is not None and before is not None
    )


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_single_filter_has_a_finite_score(criterion: Criterion) -> None:
    for weight in (torch.zeros(1, 1, 1, 1), normal(1, 1, 3, 3)):
        scores = criterion(Filters(weight), generator())
        assert scores.shape == (1,)
        assert scores.isfinite().all()
