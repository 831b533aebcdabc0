"""Print means by variant of a column in a run's tables, for the last round or for all rounds.

python benchmarks/by_round.py RUN train_accuracy            rounds.parquet, last round: mean over peers and seeds
python benchmarks/by_round.py RUN alpha                     grafts.parquet, all rounds: smallest, mean, largest
python benchmarks/by_round.py RUN num_filters_below_50      diagnostics.parquet, by round: mean over peers and seeds
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("column")
    given = parser.parse_args()
    print_means(given.run, given.column)


def print_means(folder: Path, column: str) -> None:
    variant_of = {row["trial_id"]: row["variant"] for row in pq.read_table(folder / "trials.parquet").to_pylist()}
    rounds = pq.read_table(folder / "rounds.parquet").to_pylist()
    if column == "alpha":
        for variant, rows in by_variant(pq.read_table(folder / "grafts.parquet").to_pylist(), variant_of).items():
            alphas = [row["alpha"] for row in rows]
            print(f"{variant}: {min(alphas):.3f} to {max(alphas):.3f}, mean {statistics.fmean(alphas):.3f}")
    elif column in rounds[0]:
        for variant, rows in by_variant(rounds, variant_of).items():
            last = max(row["round"] for row in rows)
            print(f"{variant}: {statistics.fmean(row[column] for row in rows if row['round'] == last):.4g}")
    else:
        diagnostics = pq.read_table(folder / "diagnostics.parquet").to_pylist()
        values = [row for row in diagnostics if row["diagnostic"] == column]
        for variant, rows in by_variant(values, variant_of).items():
            means = (
                statistics.fmean(row["value"] for row in rows if row["round"] == round_)
                for round_ in sorted({row["round"] for row in rows})
            )
            print(f"{variant}: {' '.join(f'{mean:.4g}' for mean in means)}")


def by_variant(rows: list[dict[str, Any]], variant_of: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a table by the variant of their trial."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[variant_of[row["trial_id"]]].append(row)
    return groups


if __name__ == "__main__":
    main()
