"""Attenuation of weak filters, and the schedules of rate and factor."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftpop.ops.attenuation import ShareSchedule, attenuate_, constant, falling, growing, zero

SCHEDULES = [constant, zero, falling, growing]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(st.integers(1, 400))
def test_schedules_are_within_0_to_1(schedule: ShareSchedule, epochs: int) -> None:
    assert all(0.0 <= schedule(done, epochs) <= 1.0 for done in range(epochs + 1))


@given(st.integers(1, 400))
def test_rates_never_fall_and_end_at_1(epochs: int) -> None:
    for schedule in (constant, growing):
        shares = [schedule(done, epochs) for done in range(epochs + 1)]
        assert all(earlier <= later for earlier, later in pairwise(shares))
        assert shares[-1] == 1.0


@given(st.integers(1, 400))
def test_factors_start_at_1_and_never_rise(epochs: int) -> None:
    for schedule in (constant, falling):
        shares = [schedule(done, epochs) for done in range(epochs + 1)]
        assert shares[0] == 1.0
        assert all(earlier >= later for earlier, later in pairwise(shares))


def test_constant_schedules_are_1_and_0_throughout() -> None:
    assert {(constant(done, 10), zero(done, 10)) for done in range(11)} == {(1.0, 0.0)}


@pytest.mark.parametrize("epochs", [8, 80, 200])
def test_growing_rate_reaches_three_quarters_at_one_eighth(epochs: int) -> None:
    k = math.log(4) / (epochs / 8)
    assert growing(0, epochs) == 0.0
    assert growing(epochs // 8, epochs) == pytest.approx(0.75, abs=1e-12)
    assert growing(epochs // 4, epochs) == pytest.approx(0.9375, abs=1e-12)
    expected = [1 - math.exp(-k * done) for done in range(epochs)]
    assert [growing(done, epochs) for done in range(epochs)] == pytest.approx(expected, abs=1e-12)


def test_falling_factor_is_linear() -> None:
    assert [falling(done, 4) for done in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("schedule", [growing, falling])
@pytest.mark.parametrize(("epochs_done", "epochs"), [(-1, 10), (11, 10), (0, 0)])
def test_epoch_outside_the_training_is_refused(schedule: ShareSchedule, epochs_done: int, epochs: int) -> None:
    with pytest.raises(ValueError, match=rf"got {epochs_done=}, {epochs=}"):
        schedule(epochs_done, epochs)


@pytest.mark.parametrize("factor", [0.0, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 3, 3)])
def test_weak_filters_are_multiplied_and_others_unchanged(factor: float, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = weight.detach().clone()
    attenuate_(weight, torch.tensor([4, 1]), factor)
    assert weight.requires_grad
    assert weight.is_leaf
    for number in range(6):
        expected = before[number] * factor if number in (1, 4) else before[number]
        assert torch.equal(weight[number], expected)


def test_factor_0_zeroes_and_factor_1_changes_nothing() -> None:
    weight = torch.tensor([[1e-45, -0.0], [3e38, -1e-30], [0.1, 0.2]])
    before, both = weight.clone(), torch.tensor([0, 1])
    attenuate_(weight, both, 1.0)
    assert torch.equal(weight.view(torch.int32), before.view(torch.int32))
    attenuate_(weight, both, 0.0)
    assert torch.count_nonzero(weight[:2]) == 0
    assert torch.equal(weight[2], before[2])


def test_no_weak_filters_change_nothing() -> None:
    weight = torch.ones(3, 2)
    attenuate_(weight, torch.empty(0, dtype=torch.int64), 0.0)
    assert torch.equal(weight, torch.ones(3, 2))


def test_layout_in_memory_is_kept() -> None:
    weight = torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)
    attenuate_(weight, torch.tensor([2]), 0.5)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.mean((1, 2, 3)).tolist() == [1.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("factor", [-0.1, 1.1, math.nan])
def test_factor_outside_0_to_1_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"^attenuate_: factor .* \[0, 1\], got factor="):
        attenuate_(torch.ones(3, 2), torch.tensor([0]), factor)
