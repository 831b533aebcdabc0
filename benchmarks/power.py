"""Print the smallest differences that paired comparisons resolve, to be known before they are run.

    python benchmarks/power.py [STD...] [--seeds 3 5 10 20] [--power 0.8]

A comparison of n seeds calls a variant better or worse if the 95 % interval of its mean paired difference excludes 0:
a two-sided t test at 5 %. The table has, per standard deviation of the paired differences and in its unit, the true
difference that is found with the given probability. The test statistic then has a noncentral t distribution with n - 1
degrees of freedom and noncentrality difference * sqrt(n) / std; a difference found on the wrong side does not count.
"""

import argparse
import math
from collections.abc import Sequence

from scipy import optimize, stats
from turns import print_table

from graftpop.comparison.difference import CONFIDENCE


def smallest_difference(n: int, power: float) -> float:
    """Return the difference, in standard deviations, that n paired seeds find with probability `power`.

    Args:
        n: number of seeds, at least 3.
        power: in (0.05, 1).
    """
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)

    def surplus(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, n - 1, noncentrality) - power)

    return float(optimize.brentq(surplus, 1e-6, 50.0)) / math.sqrt(n)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stds", metavar="STD", type=float, nargs="*", default=[1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10, 20])
    parser.add_argument("--power", type=float, default=0.8)
    options = parser.parse_args(arguments)
    effects = [smallest_difference(n, options.power) for n in options.seeds]
    print_table(
        ["std", *(f"{n} seeds" for n in options.seeds)],
        [[f"{std:g}", *(f"{effect * std:.2f}" for effect in effects)] for std in options.stds],
    )


if __name__ == "__main__":
    main()
