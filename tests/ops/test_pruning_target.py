"""Counts of units that reach a size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftpop.ops.pruning_target import counts_for_target

SIZES = st.lists(st.integers(2, 40), min_size=1, max_size=5)


def uniform(sizes: list[int], rate: float) -> list[int]:
    return [min(int(rate * size), size - 1) for size in sizes]


def share_left(sizes: list[int], counts: list[int]) -> float:
    """Return the share of a chain of layers that is left; each costs its inputs times its outputs."""

    def cost(widths: list[int]) -> int:
        return sum(one * other for one, other in zip([3, *widths], [*widths, 10], strict=True))

    return cost([size - count for size, count in zip(sizes, counts, strict=True)]) / cost(sizes)


@given(SIZES, st.floats(0.01, 1.0))
def test_no_single_unit_comes_nearer_to_the_target(sizes: list[int], share: float) -> None:
    least = share_left(sizes, [size - 1 for size in sizes])
    target = least + (1 - least) * share
    counts = counts_for_target(target, lambda rate: uniform(sizes, rate), lambda lost: share_left(sizes, list(lost)))
    assert all(0 <= count < size for count, size in zip(counts, sizes, strict=True))
    steps = []
    for layer in range(len(sizes)):
        for step in (-1, 1):
            other = [count + step * (index == layer) for index, count in enumerate(counts)]
            if all(0 <= count < size for count, size in zip(other, sizes, strict=True)):
                steps.append(abs(share_left(sizes, other) - share_left(sizes, counts)))
    assert abs(share_left(sizes, counts) - target) <= max(steps)


def test_exact_targets_are_hit() -> None:
    for lost in range(10):
        target = share_left([10], [lost])
        assert counts_for_target(target, lambda rate: uniform([10], rate), lambda n: share_left([10], list(n))) == [
            lost
        ]


def test_layers_keep_the_proportions_of_the_allocation() -> None:
    counts = counts_for_target(
        0.3, lambda rate: uniform([100, 200], rate), lambda lost: share_left([100, 200], list(lost))
    )
    assert abs(counts[0] / 100 - counts[1] / 200) <= 0.01


def test_unreachable_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^counts_for_target: target must be at least 0\.\d+, got 0\.01"):
        counts_for_target(0.01, lambda rate: uniform([10], rate), lambda lost: share_left([10], list(lost)))
