"""Difference between two variants measured with the same seeds, with its confidence interval."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CONFIDENCE", "Difference", "paired_difference"]

CONFIDENCE = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline over the seeds that both completed, in the unit of the metric.

    Attributes:
        n: number of seeds in common.
        mean: mean of the differences.
        by_seed: difference for each seed.
        interval: interval of the mean by Student's t, at `CONFIDENCE` by default. None for fewer than two seeds; zero
            width if all differences are equal.
    """

    n: int
    mean: float
    by_seed: Mapping[Any, float]
    interval: tuple[float, float] | None


def paired_difference(
    values: Mapping[Any, float], baseline: Mapping[Any, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """Return values minus baseline, both by seed, over their common seeds; None without a common seed.

    mean +- t_{(1 + confidence) / 2, n - 1} * sd / sqrt(n)        (Student 1908, The probable error of a mean)
    """
    by_seed = {seed: value - baseline[seed] for seed, value in values.items() if seed in baseline}
    differences = list(by_seed.values())
    n = len(differences)
    if not n:
        return None
    mean = statistics.mean(differences)
    if n < 2:
        return Difference(n, mean, by_seed, None)
    error = statistics.stdev(differences) / math.sqrt(n)
    if error == 0:
        return Difference(n, mean, by_seed, (mean, mean))
    from scipy import stats

    low, high = stats.t.interval(confidence, n - 1, loc=mean, scale=error)
    return Difference(n, mean, by_seed, (float(low), float(high)))
