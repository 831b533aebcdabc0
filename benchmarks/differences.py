"""Print a comparison in Markdown: the test score of each variant, and its paired differences from several baselines.

    python benchmarks/differences.py ENTRY [--baselines NAME...] [--variants NAME...] [--ensembles NAME...] [--tests N]

ENTRY is a folder of `benchmarks/` with `space.yaml` and `results.jsonl`. Differences are in points, with their 95 %
intervals in brackets; bold ones exclude 0. `--ensembles` adds the ensembles of these variants, whose inference costs as
often as much as they have peers. A baseline with other costs than the variants is another accounting: one network with
the images, the epochs or the time of a population. `--tests` widens the intervals by Bonferroni's rule: all differences
of N tests lie in theirs with 95 % together.
"""

import argparse
from pathlib import Path

from evidence import group_of

from graftpop.comparison.difference import CONFIDENCE, Difference, paired_difference


def difference_text(difference: Difference | None) -> str:
    """Return a mean difference in points with its interval, bold if that excludes 0; empty for None."""
    if difference is None:
        return ""
    mean = f"{100 * difference.mean:+.2f}"
    if difference.interval is None:
        return mean
    low, high = difference.interval
    text = f"{mean} ({100 * low:+.2f} to {100 * high:+.2f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def at_confidence(difference: Difference | None, confidence: float) -> Difference | None:
    """Return a difference with the interval at another level of confidence."""
    if difference is None:
        return None
    return paired_difference(difference.by_seed, dict.fromkeys(difference.by_seed, 0.0), confidence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", type=Path)
    parser.add_argument("--baselines", nargs="+", metavar="NAME", help="default: that of the space")
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--ensembles", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--tests", type=int, default=1, metavar="N")
    given = parser.parse_args()
    confidence = 1 - (1 - CONFIDENCE) / given.tests
    baselines = given.baselines or [None]
    groups = [group_of(given.entry, given.variants, baseline, ensembles=given.ensembles)[1] for baseline in baselines]
    heads = ["variant", "n", "test, %", *(f"minus {group.baseline}, points" for group in groups)]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    lines = [line for line in groups[0].lines if line.mean is not None]
    for line in sorted(lines, key=lambda line: -(line.mean or 0.0)):
        score = f"{100 * (line.mean or 0.0):.2f}" + ("" if line.std is None else f" ± {100 * line.std:.2f}")
        differences = [at_confidence(group.differences.get(line.variant), confidence) for group in groups]
        print(f"| {' | '.join([line.variant, str(line.n), score, *map(difference_text, differences)])} |")


if __name__ == "__main__":
    main()
