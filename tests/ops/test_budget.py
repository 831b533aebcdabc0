"""The budget of units by gradient descent, against all counts of tiny networks and a greedy loop on a larger one."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.allocation import budget

INF = math.inf
ShareLeft = Callable[[Tensor], Tensor]
LAYERS = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=6), min_size=1, max_size=4)
SHARES = st.floats(0.02, 1.0)


def tensors(layers: Sequence[Sequence[float]]) -> list[Tensor]:
    return [torch.tensor(layer, dtype=torch.float32) for layer in layers]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain(sizes: Sequence[int], images: Sequence[float]) -> ShareLeft:
    """Return the share of a chain of layers that is left; each costs its inputs times its outputs times its image."""

    whole, images_L = torch.tensor(sizes, dtype=torch.float64), torch.tensor([*images, 1.0], dtype=torch.float64)
    first, last = torch.tensor([3.0]).double(), torch.tensor([10.0]).double()

    def cost(widths: Tensor) -> Tensor:
        return (torch.cat([first, widths]) * torch.cat([widths, last])) @ images_L

    return lambda counts: cost(whole - counts) / cost(whole)


def independent(sizes: Sequence[int], costs: Sequence[float]) -> ShareLeft:
    """Return the share that is left of layers whose units have fixed costs."""
    costs_L = torch.tensor(costs, dtype=torch.float64)
    return lambda counts: 1 - counts @ costs_L / (torch.tensor(sizes, dtype=torch.float64) @ costs_L)


def left(share_left: ShareLeft, counts: Sequence[int]) -> float:
    return float(share_left(torch.tensor(counts, dtype=torch.float64)))


def lost(scores: Sequence[Tensor], counts: Sequence[int]) -> float:
    return math.fsum(sum(sorted(layer.tolist())[:num]) for layer, num in zip(scores, counts, strict=True))


@settings(max_examples=6)
@given(LAYERS, st.lists(st.integers(0, 3), min_size=4, max_size=4), SHARES)
def test_target_is_met_as_nearly_as_single_units_allow(layers: list[list[int]], least: list[int], share: float) -> None:
    sizes, least = [len(layer) for layer in layers], least[: len(layers)]
    most = [max(0, size - kept) for size, kept in zip(sizes, least, strict=True)]
    share_left = chain(sizes, [4, 3, 2, 1][: len(sizes)])
    target = left(share_left, most) + (1 - left(share_left, most)) * share
    counts = budget(tensors(layers), share_left, target, least)
    assert all(0 <= count <= num for count, num in zip(counts, most, strict=True))
    steps = [0.0]
    for layer, step in itertools.product(range(len(sizes)), (-1, 1)):
        other = [count + step * (index == layer) for index, count in enumerate(counts)]
        if 0 <= other[layer] <= most[layer]:
            steps.append(abs(left(share_left, other) - left(share_left, counts)))
    assert abs(left(share_left, counts) - target) <= max(steps) + 1e-12


def test_loss_of_importance_is_near_that_of_the_best_counts() -> None:
    """The best of all counts that leave no more of the network: three layers of four units are hard to round."""
    draw, ratios = random.Random(0), []
    for _ in range(6):
        scores = tensors([[draw.randint(1, 20) for _ in range(4)] for _ in range(3)])
        share_left = chain([4] * 3, [draw.randint(1, 5) for _ in range(3)])
        counts = budget(scores, share_left, draw.uniform(0.3, 0.9), [1] * 3)
        allowed = left(share_left, counts)
        others = itertools.product(range(4), repeat=3)
        ratios.append(
            lost(scores, counts) / min(lost(scores, other) for other in others if left(share_left, other) <= allowed)
        )
    assert max(ratios) <= 1.5
    assert sum(ratios) / len(ratios) <= 1.1


@pytest.mark.parametrize("target", [0.9, 0.5, 0.2, 0.05])
def test_loss_of_importance_equals_that_of_a_greedy_loop(target: float) -> None:
    """The loop drops, again and again, the unit with the lowest score for what it saves now."""
    sizes = [8, 16, 16, 32, 32, 64]
    share_left = chain(sizes, [64, 64, 16, 16, 4, 4])
    scores = [normal(size, seed=seed).exp() for seed, size in enumerate(sizes)]
    ranked = [layer.sort().values.tolist() for layer in scores]
    greedy = [0] * len(sizes)
    while (now := left(share_left, greedy)) > target:
        prices = {}
        for layer in range(len(sizes)):
            if greedy[layer] < sizes[layer] - 1:
                saved = now - left(share_left, [num + (index == layer) for index, num in enumerate(greedy)])
                prices[layer] = ranked[layer][greedy[layer]] / saved
        greedy[min(prices, key=prices.__getitem__)] += 1
    counts = budget(scores, share_left, target, [1] * len(sizes))
    assert left(share_left, counts) == pytest.approx(target, abs=0.02)
    assert lost(scores, counts) <= 1.05 * lost(scores, greedy)


def test_layers_with_low_scores_lose_more() -> None:
    share_left = independent([20, 20, 20], [1.0, 1.0, 1.0])
    scores = [scale * torch.arange(1, 21) for scale in (1.0, 0.5, 0.3)]
    high, middle, low = budget(scores, share_left, 0.5, [1, 1, 1])
    assert low > middle > high > 0


def test_layers_whose_units_cost_more_lose_more() -> None:
    share_left = independent([20, 20, 20], [1.0, 2.0, 3.0])
    cheap, middle, dear = budget([torch.arange(1, 21)] * 3, share_left, 0.5, [1, 1, 1])
    assert dear > middle > cheap > 0


@pytest.mark.parametrize("target", [0.93, 0.5, 0.26])
def test_equal_layers_lose_equally(target: float) -> None:
    counts = budget([normal(30).abs()] * 4, independent([30] * 4, [1.0] * 4), target, [1] * 4)
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == round((1 - target) * 120)


def test_descent_continues_for_any_size_of_the_network() -> None:
    """In one layer, every target is met to the unit, from the nearest to the whole network to the smallest."""
    share_left = independent([1000], [1.0])
    for num in (0, 1, 500, 999):
        assert budget([normal(1000).abs()], share_left, 1 - num / 1000, [1]) == [num]


def test_only_the_ratio_of_scores_matters() -> None:
    scores = [normal(20, seed=seed).abs() for seed in range(3)]
    share_left = chain([20] * 3, [1, 2, 3])
    expected = budget(scores, share_left, 0.4, [1] * 3)
    assert budget([layer * 1e-30 for layer in scores], share_left, 0.4, [1] * 3) == expected
    assert budget([layer.flip(0) * 1e30 for layer in scores], share_left, 0.4, [1] * 3) == expected


def test_scores_below_0_are_counted_from_the_lowest() -> None:
    scores = [normal(20, seed=seed).abs() for seed in range(3)]
    lowest = min(float(layer.min()) for layer in scores)
    share_left = chain([20] * 3, [1, 2, 3])
    expected = budget([layer.double() - lowest for layer in scores], share_left, 0.4, [1] * 3)
    assert budget([layer.double() - 7 for layer in scores], share_left, 0.4, [1] * 3) == expected
    assert expected != budget([layer.double() + 7 for layer in scores], share_left, 0.4, [1] * 3)


def test_scores_of_zero_reach_the_target_too() -> None:
    counts = budget([torch.zeros(20)] * 2, independent([20, 20], [1.0, 1.0]), 0.5, [1, 1])
    assert sum(counts) == 20


def test_dropped_units_are_among_the_lost_and_count_nothing() -> None:
    share_left = independent([10, 10], [1.0, 1.0])
    dropped = [torch.cat([torch.full((6,), -INF), torch.full((4,), 5.0)]), torch.full((10,), 1.0)]
    assert budget(dropped, share_left, 0.5, [1, 1]) == [6, 4]
    assert budget(dropped, share_left, 0.8, [1, 1]) == [6, 0]  # they do not return
    assert budget(dropped, share_left, 0.68, [1, 1]) == [6, 0]  # [5, 1] would be as near
    assert budget(dropped, share_left, 1.0, [1, 1]) == [6, 0]
    assert budget(dropped, share_left, 0.2, [1, 1]) == [7, 9]
    assert budget(dropped, share_left, 0.5, [1, 7]) == [7, 3]


def test_dropped_units_do_not_hide_the_differences_of_the_others() -> None:
    scores = [1 + torch.arange(20) / 10, 2 + torch.arange(20) / 10]
    share_left = independent([22, 20], [1.0, 1.0])
    first, second = budget([torch.tensor([-INF, -INF, *scores[0]]), scores[1]], share_left, 0.5, [1, 1])
    assert first + second == 21
    assert lost(scores, [first - 2, second]) == min(lost(scores, [num, 19 - num]) for num in range(20))


def test_layers_may_be_unable_to_lose_a_unit() -> None:
    share_left = independent([4, 2], [1.0, 1.0])
    assert budget([torch.ones(4), torch.zeros(2)], share_left, 0.5, [1, 3]) == [3, 0]


@pytest.mark.parametrize("target", [0.0, -0.1, 1.1, math.nan])
def test_target_outside_0_to_1_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=r"^budget: target .* \(0, 1\], got target="):
        budget([torch.ones(4)], independent([4], [1.0]), target, [1])


def test_unreachable_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^budget: target must be at least 0\.25, got 0\.2$"):
        budget([torch.ones(4)], independent([4], [1.0]), 0.2, [1])
    with pytest.raises(ValueError, match=r"^budget: target must be at least 1, got 0\.2$"):
        budget([torch.ones(4)], independent([4], [1.0]), 0.2, [4])


@pytest.mark.parametrize("score", [math.nan, INF])
def test_scores_that_are_not_numbers_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"^budget: scores .* got \w+ in layer 1"):
        budget([torch.ones(2), torch.tensor([1.0, score])], independent([2, 2], [1.0, 1.0]), 0.5, [1, 1])


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        budget([torch.ones(4)], independent([4], [1.0]), 0.5, [1, 1])
