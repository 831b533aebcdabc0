"""How many units each layer loses so that a network reaches a size."""

from collections.abc import Callable, Sequence

__all__ = ["counts_for_target"]

NUM_HALVINGS = 30


def counts_for_target(
    target: float, allocate: Callable[[float], Sequence[int]], share_left: Callable[[Sequence[int]], float]
) -> list[int]:
    """Return how many units each layer loses so that the share of a network that is left is nearest to a target.

    The rate of an allocation is found by bisection. Since counts are whole numbers, a small step of the rate may change
    many layers at once; such a step is taken layer by layer, unit by unit, in order, up to the nearest share.

    Args:
        target: share to be left, in (0, 1].
        allocate: maps a rate in [0, 1) to the number of units that each layer loses; no number falls when the rate
            grows.
        share_left: maps such numbers to the share of the network that is left.

    Returns:
        The number of units that each layer loses.

    Raises:
        ValueError: even the largest rate leaves more than the target.
    """
    low, high = 0.0, 1 - 2**-NUM_HALVINGS
    counts, most = list(allocate(low)), list(allocate(high))
    if share_left(most) > target:
        raise ValueError(f"counts_for_target: target must be at least {share_left(most):.4g}, got {target:g}")
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        tried = list(allocate(middle))
        if share_left(tried) > target:
            low, counts = middle, tried
        else:
            high, most = middle, tried
    for layer, last in enumerate(most):
        while counts[layer] < last and share_left(counts) > target:
            before = list(counts)
            counts[layer] += 1
            if abs(share_left(before) - target) < abs(share_left(counts) - target):
                return before
    return counts
