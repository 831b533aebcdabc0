"""Print a comparison of pruning methods in Markdown: test score, difference to the whole network, and what is left.

    python benchmarks/sizes.py ENTRY [--baseline VARIANT]

ENTRY is a folder of `benchmarks/` with `space.yaml` and `results.jsonl`. Sizes and latencies are shares of the network
before the removal: means over the seeds, and for latencies medians.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evidence import group_of
from parts import read_results

COLUMNS: dict[str, Callable[[Sequence[float]], float]] = {
    "flops": statistics.fmean,
    "parameters": statistics.fmean,
    "latency_1": statistics.median,
    "latency_128": statistics.median,
}
HEADS = ["variant", "test, %", "difference, points", "95 % interval", "FLOPs left", "parameters left"]
HEADS += ["latency left, 1 image", "128 images"]


def shares_left(rows: Sequence[dict[str, Any]], column: str) -> list[float]:
    """Return the share that the removal left, in [0, 1], of each trial with one."""
    unit = "_ms" if column.startswith("latency") else ""
    left = f"{column}_left{unit}"
    return [row[left] / row[f"{column}{unit}"] for row in rows if row.get(left) is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", type=Path)
    parser.add_argument("--baseline", help="variant that the others are compared with; default that of the space")
    given = parser.parse_args()
    entry = given.entry
    _, group = group_of(entry, baseline=given.baseline)
    results = read_results(entry)
    print(f"| {' | '.join(HEADS)} |\n|---|{'---:|' * (len(HEADS) - 1)}")
    for line in sorted(group.lines, key=lambda line: -(line.mean or 0.0)):
        rows = [row for row in results if row["variant"] == line.variant]
        score = "" if line.mean is None else f"{100 * line.mean:.2f}"
        score += "" if line.std is None else f" ± {100 * line.std:.2f}"
        difference = interval = ""
        if line.difference is not None:
            difference = f"{100 * line.difference.mean:+.2f}"
            if line.difference.interval is not None:
                low, high = line.difference.interval
                interval = f"{100 * low:+.2f} to {100 * high:+.2f}"
        left = [shares_left(rows, column) for column in COLUMNS]
        shares = [
            f"{100 * mean(found):.1f} %" if found else "" for mean, found in zip(COLUMNS.values(), left, strict=True)
        ]
        print(f"| {' | '.join([line.variant, score, difference, interval, *shares])} |")


if __name__ == "__main__":
    main()
