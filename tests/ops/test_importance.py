"""L1 norms of filters and the number of invalid filters."""

from random import Random

import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.importance import INVALID_BELOW, filter_l1_norms, num_invalid_filters

filters = (
    st.integers(1, 12)
    .flatmap(
        lambda size: st.lists(st.lists(st.integers(-256, 256), min_size=size, max_size=size), min_size=1, max_size=6)
    )
    .map(lambda rows: torch.tensor(rows) / 1024)
)


@given(filters)
def test_norms_and_invalid_filters_equal_a_loop_over_filters(weight: Tensor) -> None:
    expected = references.filter_l1_norms(weight.double().numpy())
    assert filter_l1_norms(weight).tolist() == expected
    assert num_invalid_filters(weight).item() == sum(norm < 0.1 for norm in expected)


@given(filters, st.randoms(use_true_random=False))
def test_norms_move_with_their_filters(weight: Tensor, random: Random) -> None:
    order = list(range(len(weight)))
    random.shuffle(order)
    assert torch.equal(filter_l1_norms(weight[order]), filter_l1_norms(weight)[order])


def test_filter_at_the_threshold_is_valid() -> None:
    weight = torch.tensor([[0.25, -0.25], [0.25, -0.125], [0.0, 0.0]])
    assert num_invalid_filters(weight, threshold=0.5).item() == 2
    assert num_invalid_filters(weight, threshold=0.0).item() == 0


def test_threshold_is_the_papers_larger_one() -> None:
    assert INVALID_BELOW == 0.1
    assert num_invalid_filters(torch.tensor([0.099, -0.101, 0.0])).item() == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_summed_in_float32(dtype: torch.dtype) -> None:
    weight = torch.full((2, 4096), 0.125, dtype=dtype)  # in bfloat16 a running sum would stop at 32
    assert filter_l1_norms(weight).dtype == torch.float32
    assert filter_l1_norms(weight).tolist() == [512.0, 512.0]


def test_weights_are_unchanged_untracked_and_of_any_layout() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = weight.detach().clone()
    norms = filter_l1_norms(weight)
    assert not norms.requires_grad
    assert torch.equal(weight, before)
    assert torch.allclose(filter_l1_norms(weight.to(memory_format=torch.channels_last)), norms)
