"""Numerics of the released code, equal to the bit, and their difference from the formulas."""

import math

import numpy as np
import pytest
import references
import torch
from torch import Tensor

from graftpop.ops.entropy import entropy
from graftpop.ops.released import released_alpha, released_blend, released_entropies, released_integer_blend


def drawn_tensors(count: int, max_size: int, seed: int) -> list[Tensor]:
    """Return tensors of any magnitude, some off zero, a few with values that repeat."""
    sizes = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for number in range(count):
        values = torch.randn(int(sizes.integers(1, max_size + 1)), generator=generator)
        values = values * 10.0 ** float(sizes.uniform(-6, 3)) + (float(sizes.normal()) if number % 3 == 0 else 0.0)
        tensors.append(values.mul(4).round().div(4) if number % 5 == 0 else values)
    return tensors


@pytest.mark.parametrize(("count", "max_size"), [(400, 30), (200, 3000)])
def test_entropies_equal_the_released_codes_to_the_bit(count: int, max_size: int) -> None:
    tensors = drawn_tensors(count, max_size, seed=max_size)
    assert released_entropies(tensors).tolist() == [references.released_entropy(tensor) for tensor in tensors]


@pytest.mark.parametrize("num_bins", [2, 7, 100])
def test_entropies_of_other_bin_counts_equal_the_released_code(num_bins: int) -> None:
    tensors = drawn_tensors(60, 200, seed=num_bins)
    expected = [references.released_entropy(tensor, num_bins) for tensor in tensors]
    assert released_entropies(tensors, num_bins).tolist() == expected


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
@pytest.mark.parametrize("size", [1, 30])
def test_entropy_of_a_constant_tensor_is_0(value: float, size: int) -> None:
    assert released_entropies([torch.full((size,), value)]).tolist() == [0.0]


def test_open_last_bin_drops_the_largest_value() -> None:
    """0, 1, ..., 8 in 8 bins: eight values of nine are counted, each in its own bin."""
    values = torch.arange(9.0)
    assert released_entropies([values], num_bins=8).item() == pytest.approx(-8 / 9 * math.log(1 / 9), abs=1e-6)
    assert entropy(values, num_bins=8).item() == pytest.approx(math.log(9) - 2 / 9 * math.log(2), abs=1e-12)


def test_rounded_last_edge_may_keep_the_largest_value() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2304, generator=generator) for _ in range(300)]
    shares = [references.released_share_in_bins(tensor) for tensor in tensors]
    assert set(shares) == {1.0, 2303 / 2304}
    assert 0.6 < sum(share < 1 for share in shares) / len(shares) < 0.85


def test_open_last_bin_matters_for_small_tensors_only() -> None:
    generator = torch.Generator().manual_seed(0)
    gaps = {}
    for size in (9, 2304):
        tensors = [torch.randn(size, generator=generator) for _ in range(50)]
        closed = torch.stack([entropy(tensor) for tensor in tensors])
        gaps[size] = (closed - released_entropies(tensors)).abs().max().item()
    assert gaps[9] > 0.2
    assert gaps[2304] < 0.004


@pytest.mark.parametrize("A", [0.4, 0.37, 1.0])
@pytest.mark.parametrize("c", [1.0, 5.0, 500.0])
def test_alpha_equals_the_released_codes_to_the_bit(A: float, c: float) -> None:
    random = np.random.default_rng(0)
    own = random.uniform(0, math.log(10), 2000).astype(np.float32).astype(np.float64)
    donor = (own + random.normal(size=2000) * 10.0 ** random.uniform(-6, 0, 2000)).astype(np.float32).astype(np.float64)
    alpha = released_alpha(torch.from_numpy(own), torch.from_numpy(donor), A=A, c=c)
    assert alpha.tolist() == [references.released_alpha(*pair, A=A, c=c) for pair in zip(own, donor, strict=True)]


def test_alpha_has_two_decimals_and_sums_to_one() -> None:
    own = torch.linspace(1.0, 1.01, 101, dtype=torch.float64)
    there, back = (released_alpha(*pair, A=0.4, c=500.0) for pair in ((own, own.flip(0)), (own.flip(0), own)))
    assert (there * 100).sub((there * 100).round()).abs().max() < 1e-12
    assert torch.allclose(there + back, torch.ones(101, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.3, 0.56, 0.5, 0.7, 0.0, 1.0, 0.09, 0.34, 0.59])
def test_blended_weights_equal_the_released_codes_to_the_bit(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    receiver, donor = torch.randn(2, 5000, generator=generator)
    expected = receiver * alpha + donor * (1 - alpha)
    per_weight = torch.full((5000,), alpha, dtype=torch.float64)
    assert torch.equal(released_blend(receiver, donor, per_weight), expected)
    assert torch.equal(released_blend(receiver, donor, torch.tensor(alpha, dtype=torch.float64)), expected)


@pytest.mark.parametrize("alpha", [0.3, 0.56, 0.5, 0.7, 0.0, 1.0])
def test_integer_buffers_are_blended_as_floats_and_truncated(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    receiver, donor = torch.randint(2**26, (2, 2000), generator=generator)  # some are not exact in float32
    expected = torch.empty(2000, dtype=torch.int64).copy_(receiver * alpha + donor * (1 - alpha))
    blended = released_integer_blend(receiver, donor, torch.tensor(alpha, dtype=torch.float64))
    assert blended.dtype == torch.int64
    assert torch.equal(blended, expected)


def test_arguments_are_unchanged_and_layout_does_not_matter() -> None:
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    integers = torch.tensor([7]), torch.tensor([12])
    before = weight.detach().clone()
    alpha = torch.tensor(0.3, dtype=torch.float64)
    result = released_entropies([weight, weight.to(memory_format=torch.channels_last)])
    released_blend(weight.detach(), before, alpha)
    released_integer_blend(*integers, alpha)
    assert result[0] == result[1]
    assert result.dtype == torch.float64
    assert not result.requires_grad
    assert torch.equal(weight, before)
    assert [integer.item() for integer in integers] == [7, 12]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_measured_in_float32(dtype: torch.dtype) -> None:
    weight = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert released_entropies([weight]).item() == references.released_entropy(weight.float())
