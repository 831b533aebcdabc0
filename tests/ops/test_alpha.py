"""Bounds, symmetry and reference values of alpha."""

import math

import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.alpha import adaptive_alpha, fixed_alpha

entropies = st.floats(0.0, math.log(10))
amplitudes = st.floats(0.0, 1.0)
steepnesses = st.floats(1e-3, 1e4)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gap", "by_c"),
    [
        (0.001, {1: 0.500, 10: 0.501, 100: 0.513, 500: 0.559}),
        (0.005, {1: 0.501, 10: 0.506, 100: 0.559, 500: 0.652}),
        (0.01, {1: 0.501, 10: 0.513, 100: 0.600, 500: 0.675}),
        (0.1, {1: 0.513, 10: 0.600, 100: 0.687, 500: 0.697}),
    ],
)
def test_alpha_saturates_as_the_gap_and_c_grow(gap: float, by_c: dict[int, float]) -> None:
    """At A = 0.4: c = 500 is nearly a switch between 0.3 and 0.7, c = 1 nearly plain averaging."""
    alphas = {c: adaptive_alpha(scalar(1.0 + gap), scalar(1.0), A=0.4, c=c).item() for c in by_c}
    assert {c: round(alpha, 3) for c, alpha in alphas.items()} == by_c


@given(entropies, amplitudes, steepnesses)
def test_equal_entropies_give_one_half(value: float, A: float, c: float) -> None:
    assert adaptive_alpha(scalar(value), scalar(value), A=A, c=c).item() == 0.5


@pytest.mark.parametrize("A", [0.0, 0.2, 0.4, 1.0])
def test_steep_curve_is_a_switch_between_the_bounds(A: float) -> None:
    alpha = adaptive_alpha(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0]), A=A, c=1e12)
    assert alpha.tolist() == pytest.approx([0.5 + A / 2, 0.5 - A / 2], abs=1e-9)


@given(entropies, entropies, amplitudes, steepnesses)
def test_alpha_equals_the_formula_and_stays_in_its_bounds(own: float, donor: float, A: float, c: float) -> None:
    alpha = adaptive_alpha(scalar(own), scalar(donor), A=A, c=c).item()
    assert alpha == pytest.approx(references.adaptive_alpha(own, donor, A, c), abs=1e-14)
    assert 0.5 - A / 2 - 1e-15 <= alpha <= 0.5 + A / 2 + 1e-15


@given(entropies, entropies, amplitudes, steepnesses)
def test_alphas_of_both_peers_sum_to_one(own: float, donor: float, A: float, c: float) -> None:
    there = adaptive_alpha(scalar(own), scalar(donor), A=A, c=c).item()
    back = adaptive_alpha(scalar(donor), scalar(own), A=A, c=c).item()
    assert there + back == pytest.approx(1.0, abs=1e-15)


@given(st.lists(entropies, min_size=2, max_size=10), entropies, amplitudes, steepnesses)
def test_alpha_does_not_fall_as_the_receivers_entropy_grows(own: list[float], donor: float, A: float, c: float) -> None:
    receiver = torch.tensor(sorted(own), dtype=torch.float64)
    alpha = adaptive_alpha(receiver, torch.full_like(receiver, donor), A=A, c=c)
    assert (alpha.diff() >= 0).all()


def test_alpha_stays_within_0_to_1_unlike_the_printed_formula() -> None:
    """The text has no 1 / pi; at the published A = 0.4 and c = 500 that extrapolates."""
    printed = [references.alpha_as_printed(own, 1.0, A=0.4, c=500) for own in (0.0, 2.0)]
    ours = adaptive_alpha(torch.tensor([0.0, 2.0]), torch.ones(2), A=0.4, c=500).tolist()
    assert printed == pytest.approx([-0.128, 1.128], abs=1e-3)
    assert ours == pytest.approx([0.3, 0.7], abs=1e-3)


@given(entropies, entropies, amplitudes, steepnesses, st.floats(0, 1))
def test_base_shifts_alpha_and_is_clipped(own: float, donor: float, A: float, c: float, base: float) -> None:
    expected = min(1.0, max(0.0, A / math.pi * math.atan(c * (own - donor)) + base))
    assert adaptive_alpha(scalar(own), scalar(donor), A=A, c=c, base=base).item() == pytest.approx(expected, abs=1e-12)


def test_alpha_is_not_rounded() -> None:
    alpha = adaptive_alpha(scalar(1.001), scalar(1.0), A=0.4, c=500).item()
    assert alpha == pytest.approx(0.5 + 0.4 / math.pi * math.atan(0.5), abs=1e-12)
    assert references.released_alpha(1.001, 1.0, A=0.4, c=500) == 0.56 != pytest.approx(alpha, abs=9e-4)


@given(st.lists(entropies, min_size=1, max_size=10), st.floats(0.0, 1.0))
def test_fixed_alpha_is_the_same_for_every_layer(values: list[float], alpha: float) -> None:
    assert fixed_alpha(torch.tensor(values), alpha).tolist() == [alpha] * len(values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alpha_is_float64_and_arguments_are_unchanged(dtype: torch.dtype) -> None:
    own, donor = torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([[2.0, 1.0]], dtype=dtype)
    for alpha in (adaptive_alpha(own, donor), fixed_alpha(own, 0.25)):
        assert alpha.dtype == torch.float64
        assert alpha.shape == (1, 2)
    assert own.tolist() == [[1.0, 2.0]]
    assert donor.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"A": -0.1}, r"^adaptive_alpha: A .*\[0, 1\], got A=-0\.1"),
        ({"A": 1.4}, r"^adaptive_alpha: A .*\[0, 1\], got A=1\.4"),
        ({"A": math.nan}, r"^adaptive_alpha: A .*\[0, 1\], got A=nan"),
        ({"base": 1.1}, r"^adaptive_alpha: base .*\[0, 1\], got base=1\.1"),
        ({"c": 0.0}, r"^adaptive_alpha: c .*got c=0\.0"),
        ({"c": math.nan}, r"^adaptive_alpha: c .*got c=nan"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adaptive_alpha(torch.ones(3), torch.ones(3), **options)


def test_entropies_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"entropies.*got \(3,\) and \(2,\)"):
        adaptive_alpha(torch.ones(3), torch.ones(2))


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_fixed_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"^fixed_alpha: .*\[0, 1\], got alpha="):
        fixed_alpha(torch.ones(3), alpha)


def test_defaults_are_the_published_ones() -> None:
    """A lead of 0.01 nats at A = 0.4 and c = 500 gives 0.4 / pi * atan(5) + 1/2."""
    alpha = adaptive_alpha(torch.tensor(0.01, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    assert alpha.item() == pytest.approx(0.4 / math.pi * math.atan(5) + 0.5, abs=1e-12)
