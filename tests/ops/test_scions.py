"""Noise for invalid filters and strong filters for weak ones, against a loop over filters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.scions import internal_scions, noise_deviation, noise_scions

# A coarse grid of filters, so that equal norms and norms at the threshold do come up.
filters = (
    st.integers(1, 6)
    .flatmap(lambda size: st.lists(st.lists(st.integers(-4, 4), min_size=size, max_size=size), min_size=1, max_size=12))
    .map(lambda rows: torch.tensor(rows) / 8)
)
thresholds = st.integers(0, 16).map(lambda steps: steps / 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms_by_loop(weight: Tensor) -> list[float]:
    return [sum(abs(value) for value in row.flatten().tolist()) for row in weight]


def pairs_by_loop(weight: Tensor, threshold: float) -> list[tuple[int, int]]:
    """Return (receiver, donor) by walking from both ends until a receiver is valid or a donor is not."""
    norms = norms_by_loop(weight)
    weak = sorted(range(len(norms)), key=lambda number: (norms[number], number))
    strong = sorted(range(len(norms)), key=lambda number: (-norms[number], number))
    pairs = []
    for receiver, donor in zip(weak, strong, strict=True):
        if norms[receiver] >= threshold or norms[donor] < threshold:
            break
        pairs.append((receiver, donor))
    return pairs


def as_pairs(scions: tuple[Tensor, Tensor]) -> list[tuple[int, int]]:
    receivers, donors = scions
    return list(zip(receivers.tolist(), donors.tolist(), strict=True))


@given(filters, thresholds)
def test_pairs_equal_a_walk_from_both_ends(weight: Tensor, threshold: float) -> None:
    assert as_pairs(internal_scions(weight, threshold)) == pairs_by_loop(weight, threshold)


@given(filters, thresholds)
def test_receivers_are_invalid_and_donors_valid(weight: Tensor, threshold: float) -> None:
    norms, pairs = norms_by_loop(weight), as_pairs(internal_scions(weight, threshold))
    assert all(norms[receiver] < threshold <= norms[donor] for receiver, donor in pairs)
    assert len({number for pair in pairs for number in pair}) == 2 * len(pairs)
    assert len(pairs) <= len(weight) // 2


def test_weakest_filters_receive_from_the_strongest_in_order() -> None:
    weight = torch.tensor([0.03, -5.0, 0.01, 4.0, -0.02, 3.0, 0.5])[:, None]
    assert as_pairs(internal_scions(weight, threshold=0.1)) == [(2, 1), (4, 3), (0, 5)]
    assert as_pairs(internal_scions(weight, threshold=0.015)) == [(2, 1)]


def test_pairs_end_before_invalid_donors() -> None:
    weight = torch.tensor([0.01, 0.02, 2.0, 0.03, 0.04])[:, None]
    assert as_pairs(internal_scions(weight, threshold=0.1)) == [(0, 2)]
    assert as_pairs(internal_scions(weight, threshold=10.0)) == []
    assert as_pairs(internal_scions(weight, threshold=0.0)) == []


def test_lower_index_comes_first_among_equal_norms() -> None:
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0, -1.0, 0.0])[:, None]
    assert as_pairs(internal_scions(weight, threshold=0.5)) == [(1, 0), (3, 2), (5, 4)]
    wide = weight.repeat(500, 1)  # a sort that is not stable fails here
    assert as_pairs(internal_scions(wide, threshold=0.5)) == [(2 * pair + 1, 2 * pair) for pair in range(1500)]


def test_indices_serve_to_copy_filters_of_a_convolution() -> None:
    weight = torch.stack([torch.full((2, 3, 3), value) for value in (1.0, 0.001, 2.0)]).requires_grad_()
    receivers, donors = internal_scions(weight, threshold=0.1)
    assert receivers.dtype == donors.dtype == torch.int64
    grafted = weight.detach().index_copy(0, receivers, weight.detach()[donors])
    assert grafted.mean((1, 2, 3)).tolist() == [1.0, 2.0, 2.0]


@given(filters, thresholds, st.integers(0, 99))
def test_noise_equals_a_loop_over_filters(weight: Tensor, threshold: float, seed: int) -> None:
    noise = torch.randn(weight.shape, generator=seeded(seed))
    expected = weight.clone()
    for number, norm in enumerate(norms_by_loop(weight)):
        if norm < threshold:
            expected[number] += 0.25 * noise[number]
    assert torch.equal(noise_scions(weight, threshold, 0.25, seeded(seed)), expected)


def test_noise_changes_invalid_filters_only() -> None:
    weight = torch.randn(20, 3, 3, 3, generator=seeded()) * torch.logspace(-5, 1, 20)[:, None, None, None]
    weight[-1, 0, 0, 0] = -0.0
    is_valid = torch.tensor([norm >= 0.1 for norm in norms_by_loop(weight)])
    noisy = noise_scions(weight, 0.1, 1.0, seeded(1))
    assert 0 < is_valid.sum() < 20
    assert torch.equal(noisy[is_valid].view(torch.int32), weight[is_valid].view(torch.int32))
    assert (noisy[~is_valid] != weight[~is_valid]).all()


@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_noise_has_mean_0_and_deviation_sigma(sigma: float) -> None:
    noise = noise_scions(torch.zeros(100, 400), 0.1, sigma, seeded())
    assert abs(noise.mean().item()) < 4 * sigma / 200  # four standard errors of a mean of 40000
    assert noise.std().item() == pytest.approx(sigma, rel=0.02)


def test_noise_depends_on_its_generator_alone() -> None:
    weight = torch.zeros(4, 9)
    state = torch.get_rng_state()
    first = noise_scions(weight, 0.1, 1.0, seeded(3))
    assert torch.equal(noise_scions(weight, 0.1, 1.0, seeded(3)), first)
    assert not torch.equal(noise_scions(weight, 0.1, 1.0, seeded(4)), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_and_later_draws_ignore_other_filters() -> None:
    all_invalid, one_invalid = torch.zeros(5, 9), torch.ones(5, 9).index_fill_(0, torch.tensor([3]), 0.0)
    generators = seeded(), seeded()
    noisy = [
        noise_scions(*pair) for pair in zip((all_invalid, one_invalid), (0.1, 0.1), (1.0, 1.0), generators, strict=True)
    ]
    assert torch.equal(noisy[0][3], noisy[1][3])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_noise_of_deviation_0_changes_nothing() -> None:
    weight = torch.randn(4, 9, generator=seeded())
    assert torch.equal(noise_scions(weight, 100.0, 0.0, seeded()), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_noise_keeps_format_shape_and_arguments(dtype: torch.dtype) -> None:
    weight = torch.zeros(4, 3, 2, 2, dtype=dtype, requires_grad=True)
    noisy = noise_scions(weight, 0.1, 1.0, seeded())
    assert (noisy.dtype, noisy.shape, noisy.requires_grad) == (dtype, weight.shape, False)
    assert torch.count_nonzero(weight) == 0
    assert torch.count_nonzero(noisy) == weight.numel()


def test_layout_in_memory_does_not_matter() -> None:
    weight = torch.randn(8, 4, 3, 3, generator=seeded()) / 1000
    channels_last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(noise_scions(channels_last, 0.1, 1.0, seeded(1)), noise_scions(weight, 0.1, 1.0, seeded(1)))


def test_noise_deviation_is_a_power_of_its_base() -> None:
    assert noise_deviation(0.975, 0) == 1.0
    assert noise_deviation(0.975, 3) == pytest.approx(0.975 * 0.975 * 0.975, rel=1e-15)
    assert noise_deviation(0.5, 2000) == 0.0


@pytest.mark.parametrize(
    ("base", "epochs_done", "message"),
    [
        (0.0, 1, r"base .*got base=0\.0"),
        (1.0, 1, r"base .*got base=1\.0"),
        (math.nan, 1, "got base=nan"),
        (0.9, -1, "got epochs_done=-1"),
    ],
)
def test_base_or_epoch_out_of_range_is_refused(base: float, epochs_done: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"noise_deviation: .*{message}"):
        noise_deviation(base, epochs_done)


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_threshold_below_0_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"internal_scions: threshold .*got threshold="):
        internal_scions(torch.ones(3, 3), threshold)
    with pytest.raises(ValueError, match=r"noise_scions: threshold .*got threshold="):
        noise_scions(torch.ones(3, 3), threshold, 1.0, seeded())


@pytest.mark.parametrize("sigma", [-1.0, math.inf, math.nan])
def test_invalid_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"noise_scions: sigma .*got sigma="):
        noise_scions(torch.ones(3, 3), 0.1, sigma, seeded())
