"""Diagnostics of networks against loops and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.diagnostics import density, disagreement, distance, network_information

filters = st.tuples(st.integers(-64, 64), st.integers(-64, 64), st.booleans())
layers = st.lists(st.lists(filters, min_size=1, max_size=5), min_size=1, max_size=4)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mean_or_nan(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@given(layers)
def test_density_equals_a_loop_over_filters(drawn: list[list[tuple[int, int, bool]]]) -> None:
    """Every filter has two weights, of whole eighths."""
    weights = [torch.tensor([[one, other] for one, other, _ in layer]) / 8 for layer in drawn]
    valid = [torch.tensor([is_valid for _, _, is_valid in layer]) for layer in drawn]
    norms: dict[bool, list[float]] = {True: [], False: []}
    for layer in drawn:
        for one, other, is_valid in layer:
            norms[is_valid].append((abs(one) + abs(other)) / 8)
    assert density(weights, valid) == pytest.approx((mean_or_nan(norms[True]), mean_or_nan(norms[False])), nan_ok=True)


def test_density_is_a_mean_over_filters() -> None:
    weights = [torch.ones(3, 4), -torch.full((1, 2, 2, 2), 2.0)]
    valid = [torch.tensor([True, True, False]), torch.tensor([True])]
    assert density(weights, valid) == ((4 + 4 + 16) / 3, 4.0)


def test_density_over_no_filters_is_nan() -> None:
    of_valid, of_invalid = density([torch.ones(2, 3)], [torch.tensor([True, True])])
    assert of_valid == 3.0
    assert math.isnan(of_invalid)


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ([], ".*got 1 layers and 0 masks"),
        ([torch.tensor([True])], r".*layer 0 .*bool of shape \(2,\), got torch\.bool of shape \(1,\)"),
        ([torch.tensor([0, 1])], r".*layer 0 .*bool of shape \(2,\), got torch\.int64 of shape \(2,\)"),
    ],
)
def test_mismatched_masks_are_refused(valid: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"density: {message}"):
        density([torch.ones(2, 3)], valid)


def test_distance_is_euclidean() -> None:
    assert distance(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([4.0, 6.0, 5.0])) == 5.0


@given(st.integers(0, 99), st.integers(1, 200))
def test_distance_equals_a_loop_and_is_a_metric(seed: int, size: int) -> None:
    one, other, third = normal(3, size, seed=seed)
    by_loop = math.sqrt(sum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True)))
    assert distance(one, other) == pytest.approx(by_loop, rel=1e-6)
    assert distance(one, other) == distance(other, one)
    assert distance(one, one.clone()) == 0.0
    assert distance(one, third) <= distance(one, other) + distance(other, third) + 1e-6


def test_distance_is_summed_in_float64() -> None:
    """One square of 2^26 and many of 1: float32 would lose every one of those."""
    one = torch.ones(100_001)
    one[0] = 2.0**13
    assert distance(one, torch.zeros(100_001)) == pytest.approx(math.sqrt(2**26 + 100_000), rel=1e-14)


def test_distance_supports_half_precision_and_parameters() -> None:
    one, other = torch.tensor([256.0, 1.0], dtype=torch.bfloat16), torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)
    assert distance(one, other) == 257.0  # bfloat16 would round it
    assert distance(torch.ones(4, requires_grad=True), torch.zeros(4)) == 2.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_disagreement_is_the_share_of_images_predicted_differently(pairs: list[tuple[int, int]]) -> None:
    one, other = torch.tensor(pairs).unbind(1)
    expected = sum(a != b for a, b in pairs) / len(pairs)
    assert disagreement(one, other) == disagreement(other, one) == pytest.approx(expected, abs=1e-15)
    assert disagreement(one, one) == 0.0
    assert disagreement(one, one + 1) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (torch.zeros(3), torch.zeros(1), r"got \(3,\) and \(1,\)"),
        (torch.zeros(3, 1), torch.zeros(3, 1), r"got \(3, 1\) and \(3, 1\)"),
    ],
)
def test_tensors_of_other_shapes_are_refused(one: Tensor, other: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=rf"distance: .*{message}"):
        distance(one, other)
    with pytest.raises(ValueError, match=rf"disagreement: .*{message}"):
        disagreement(one, other)


def test_information_is_summed_over_layers() -> None:
    assert network_information(torch.tensor([1.5, 0.25, 2.0], dtype=torch.float64)) == 3.75
    many = torch.full((10_000,), 0.1)
    assert network_information(many) == pytest.approx(10_000 * many[0].item(), rel=1e-12)
