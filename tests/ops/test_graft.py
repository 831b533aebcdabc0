"""Blending equals the formula, is exact at alpha 0 and 1 and lies between both weights elsewhere."""

from random import Random

import numpy as np
import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.graft import blend

numbers = st.integers(-4096, 4096)
pairs = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda shape: st.lists(st.tuples(numbers, numbers), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda steps: (torch.tensor(steps) / 256).reshape(*shape, 2).unbind(-1)
    )
)
alphas = st.integers(0, 64).map(lambda steps: torch.tensor(steps / 64, dtype=torch.float64))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(pairs, alphas)
def test_blend_equals_the_formula_element_by_element(pair: tuple[Tensor, Tensor], alpha: Tensor) -> None:
    receiver, donor = pair
    expected = references.blend(receiver.double().numpy(), donor.double().numpy(), alpha.item())
    assert np.allclose(blend(receiver, donor, alpha).numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_alpha_1_is_the_receiver_and_0_the_donor(scale: float) -> None:
    receiver, donor = normal(1000, seed=1) * scale, normal(1000, seed=2)
    assert torch.equal(blend(receiver, donor, torch.tensor(1.0)), receiver)
    assert torch.equal(blend(receiver, donor, torch.tensor(0.0)), donor)


@given(st.floats(0.0, 1.0))
def test_equal_weights_are_unchanged_to_the_bit(alpha: float) -> None:
    weights = normal(1000, seed=1)
    assert torch.equal(blend(weights, weights.clone(), torch.tensor(alpha)), weights)


@given(st.floats(0.0, 1.0), st.integers(0, 99))
def test_blended_weights_lie_between_receiver_and_donor(alpha: float, seed: int) -> None:
    receiver, donor = normal(200, seed=seed), normal(200, seed=seed + 100)
    blended = blend(receiver, donor, torch.tensor(alpha))
    assert (blended >= torch.minimum(receiver, donor)).all()
    assert (blended <= torch.maximum(receiver, donor)).all()


@given(pairs, alphas)
def test_equal_filter_alphas_equal_one_layer_alpha(pair: tuple[Tensor, Tensor], alpha: Tensor) -> None:
    receiver, donor = pair
    per_filter = alpha.expand(len(receiver), 1)
    assert torch.equal(blend(receiver, donor, per_filter), blend(receiver, donor, alpha))


def test_each_filter_takes_its_own_alpha() -> None:
    receiver, donor, alpha = torch.ones(3, 2), torch.zeros(3, 2), torch.tensor([[0.0], [0.25], [1.0]])
    assert blend(receiver, donor, alpha).tolist() == [[0.0, 0.0], [0.25, 0.25], [1.0, 1.0]]


@given(pairs, st.randoms(use_true_random=False))
def test_permutation_of_filters_permutes_the_result(pair: tuple[Tensor, Tensor], random: Random) -> None:
    receiver, donor = pair
    alpha = torch.linspace(0, 1, len(receiver))[:, None]
    order = list(range(len(receiver)))
    random.shuffle(order)
    assert torch.equal(blend(receiver[order], donor[order], alpha[order]), blend(receiver, donor, alpha)[order])


@given(pairs, alphas)
def test_sum_of_both_peers_weights_is_kept(pair: tuple[Tensor, Tensor], alpha: Tensor) -> None:
    receiver, donor = pair
    there, back = blend(receiver, donor, alpha), blend(donor, receiver, alpha)
    assert torch.allclose(there + back, receiver + donor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_blend_has_the_receivers_format_and_shape(dtype: torch.dtype) -> None:
    receiver, donor = torch.ones(4, 3, dtype=dtype), torch.zeros(4, 3, dtype=dtype)
    blended = blend(receiver, donor, torch.tensor(0.75, dtype=torch.float64))
    assert blended.dtype == dtype
    assert blended.tolist() == [[0.75] * 3] * 4


def test_arguments_are_not_changed() -> None:
    arguments = normal(5, seed=1), normal(5, seed=2), torch.rand(5, generator=torch.Generator().manual_seed(3))
    before = [argument.clone() for argument in arguments]
    blended = blend(*arguments)
    assert all(torch.equal(*pair) for pair in zip(arguments, before, strict=True))
    assert blended.data_ptr() not in [argument.data_ptr() for argument in arguments]


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^blend: .*got \(64, 3\) and \(128, 3\)"):
        blend(torch.zeros(64, 3), torch.zeros(128, 3), torch.tensor(0.5))
