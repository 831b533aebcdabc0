"""The entropy of a histogram, against closed forms, scipy, torch.histc and a loop over bins."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from graftpop.ops import entropy as module
from graftpop.ops.entropy import _histogram, _sums_of_comparisons, entropy, filter_entropies, layer_entropies

# A dyadic grid: shifts, scalings and bin edges are exact in float32, so that no value crosses an edge by rounding.
numbers = st.integers(-256, 256)
weights = st.lists(numbers, min_size=1, max_size=60).map(lambda steps: torch.tensor(steps) / 64)
filters = (
    st.integers(1, 12)
    .flatmap(lambda size: st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=1, max_size=6))
    .map(lambda rows: torch.tensor(rows) / 64)
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_bins", [2, 3, 10, 64])
def test_equally_filled_bins_give_the_logarithm_of_their_number(num_bins: int) -> None:
    assert entropy(torch.arange(7.0 * num_bins), num_bins).item() == pytest.approx(math.log(num_bins), abs=1e-14)


def test_two_equal_masses_give_log_2() -> None:
    assert entropy(torch.tensor([0.5, -3.0, 0.5, -3.0])).item() == pytest.approx(math.log(2), abs=1e-15)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5, 1e-30, 0.1])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_constant_tensor_has_no_entropy(value: float, size: int) -> None:
    result = torch.cat([entropy(torch.full((size,), value))[None], filter_entropies(torch.full((3, size), value))])
    assert result.tolist() == [0.0] * 4
    assert not result.signbit().any()


def test_largest_value_falls_into_the_last_bin() -> None:
    """0, 1, ..., 8 in 8 bins: one value in each of seven bins, two in the last."""
    expected = -7 / 9 * math.log(1 / 9) - 2 / 9 * math.log(2 / 9)
    assert entropy(torch.arange(9.0), num_bins=8).item() == pytest.approx(expected, abs=1e-15)


@given(weights, st.integers(2, 20))
def test_entropy_equals_a_loop_over_bins(weight: Tensor, num_bins: int) -> None:
    assert entropy(weight, num_bins).item() == pytest.approx(references.entropy(weight, num_bins), abs=1e-12)


@given(weights, st.integers(2, 20))
def test_entropy_equals_scipys_over_numpys_histogram(weight: Tensor, num_bins: int) -> None:
    counts, _ = np.histogram(weight.double().numpy(), bins=num_bins)
    assert entropy(weight, num_bins).item() == pytest.approx(stats.entropy(counts), abs=1e-12)


def test_entropy_of_normal_weights_equals_scipys() -> None:
    """Off the grid a value may cross an edge by rounding, which none of these does."""
    for seed in range(50):
        weight = normal(16, 3, 3, 3, seed=seed)
        counts, _ = np.histogram(weight.double().numpy(), bins=10)
        assert entropy(weight).item() == pytest.approx(stats.entropy(counts), abs=1e-12)


def test_filter_entropies_equal_those_of_histc() -> None:
    weight = normal(200, 9, 3, 3)
    expected = [stats.entropy(torch.histc(of_one, 10).numpy().astype(np.float64)) for of_one in weight]
    assert filter_entropies(weight).tolist() == pytest.approx(expected, abs=1e-12)


@given(filters, st.integers(2, 20))
def test_filter_entropies_equal_the_entropy_of_each_filter(weight: Tensor, num_bins: int) -> None:
    expected = [references.entropy(of_one, num_bins) for of_one in weight]
    assert filter_entropies(weight, num_bins).tolist() == pytest.approx(expected, abs=1e-12)


def test_layer_entropies_equal_the_entropy_of_each_layer() -> None:
    layers = [normal(*shape, seed=seed) for seed, shape in enumerate([(16, 3, 3, 3), (7,), (1, 1), (64, 64, 1, 1)])]
    assert layer_entropies(layers).tolist() == [entropy(layer).item() for layer in layers]


@pytest.mark.parametrize("counts_of", [_histogram, _sums_of_comparisons])
@pytest.mark.parametrize("at_a_time", [2**16, 10])
def test_counts_are_those_of_histc(
    counts_of: Callable[[Tensor, int], Tensor], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU uses the first function and a GPU the second; the bins are equal to the last weight."""
    monkeypatch.setattr(module, "COUNTED", at_a_time)
    monkeypatch.setattr(module, "COMPARED", at_a_time)
    for num_bins in (2, 10, 37, 256, 257, 1000):
        layers = [normal(size, seed=size) * 10.0 ** (size % 9 - 6) + size % 3 for size in range(1, 400)]
        layers += [torch.full((5,), 2.5), torch.zeros(1), torch.arange(100.0)]
        expected = torch.stack([torch.histc(layer, num_bins) for layer in layers]).long()
        counts = torch.stack([counts_of(layer, num_bins) for layer in layers])
        is_spread = torch.tensor([bool(layer.min() < layer.max()) for layer in layers])
        assert torch.equal(counts[is_spread], expected[is_spread])
        assert torch.equal(counts.amax(1)[~is_spread], expected.amax(1)[~is_spread])  # all in any one bin


def test_large_layers_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The range is that of the whole layer, not of a part."""
    layers = [normal(1000), torch.full((1000,), 2.5), torch.arange(1001.0)]
    expected = layer_entropies(layers)
    monkeypatch.setattr(module, "COUNTED", 300)
    assert torch.equal(layer_entropies(layers), expected)


@given(weights, st.randoms(use_true_random=False))
def test_permutation_changes_nothing(weight: Tensor, random: Random) -> None:
    order = list(range(len(weight)))
    random.shuffle(order)
    assert entropy(weight[order]).item() == entropy(weight).item()


@given(weights, numbers, st.sampled_from([2.0**-20, 0.5, 3.0, 5.0, 1024.0]))
def test_shift_and_positive_scaling_change_nothing(weight: Tensor, steps: int, scale: float) -> None:
    assert entropy((weight + steps / 64) * scale).item() == entropy(weight).item()


@given(filters, st.integers(2, 20))
def test_entropy_is_between_0_and_log_num_bins(weight: Tensor, num_bins: int) -> None:
    results = torch.cat([entropy(weight, num_bins)[None], filter_entropies(weight, num_bins)])
    assert results.min() >= 0.0
    assert results.max() <= math.log(num_bins) + 1e-12


@given(filters, st.randoms(use_true_random=False))
def test_entropies_move_with_their_filters(weight: Tensor, random: Random) -> None:
    order = list(range(len(weight)))
    random.shuffle(order)
    assert filter_entropies(weight[order]).tolist() == filter_entropies(weight)[order].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_entropy_of_any_number_format_is_in_float64(dtype: torch.dtype) -> None:
    weight = (normal(8, 4, 3, 3) * 64).round().clamp(-256, 256) / 64
    assert entropy(weight.to(dtype)).dtype == filter_entropies(weight.to(dtype)).dtype == torch.float64
    assert torch.equal(entropy(weight.to(dtype)), entropy(weight))
    assert torch.equal(filter_entropies(weight.to(dtype)), filter_entropies(weight))


def test_layout_in_memory_does_not_matter() -> None:
    weight = normal(8, 4, 3, 3)
    channels_last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(entropy(channels_last), entropy(weight))
    assert torch.equal(filter_entropies(channels_last), filter_entropies(weight))


def test_weights_with_gradients_are_measured_without_a_graph() -> None:
    weight = normal(8, 27).requires_grad_()
    before = weight.detach().clone()
    results = [entropy(weight), filter_entropies(weight), layer_entropies([weight])]
    assert not any(result.requires_grad for result in results)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("num_bins", [22, 47, 55])
def test_values_on_the_edges_of_bins_open_the_next_bin(num_bins: int) -> None:
    """0, 1, ..., n in n bins: one value in each bin, two in the last; n = 22 is lost to rounding by x / n * n."""
    share = 1 / (num_bins + 1)
    expected = -(num_bins - 1) * share * math.log(share) - 2 * share * math.log(2 * share)
    values = torch.arange(num_bins + 1.0)
    assert filter_entropies(values[None], num_bins).item() == pytest.approx(expected, abs=1e-12)
