"""Print tables of one or more runs of the same study with different seeds, in Markdown.

    python benchmarks/summary.py RUN...               tables, then the same as one line of JSON
    python benchmarks/summary.py --trials RUN...      every trial of every run, one JSON object per line

Trials of earlier versions get the costs that these did not record, from `rounds.parquet`. The tables list the trials of
every run. The last table has the mean and standard deviation (n - 1) over runs for each run's best trial, selected by
validation accuracy.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

COSTS = ("peer_images", "time_s")
DATES = ("started_at", "ended_at")
MEASURES = ("val_accuracy", "test_accuracy", "ensemble_test_accuracy")


def trials_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the trials of a run without dates, with the seed and with costs that earlier versions did not record."""
    seed = json.loads((folder / "run.json").read_text(encoding="utf-8"))["seed"]
    trials = pq.read_table(folder / "trials.parquet").to_pylist()
    costs = costs_by_trial(folder) if any(row.get("time_s") is None for row in trials) else {}
    for row in trials:
        figures = {name: value for name, value in row.items() if name not in DATES}
        known = {name: value for name, value in figures.items() if value is not None or name not in COSTS}
        yield {"seed": seed, **figures, **costs.get(row["trial_id"], {}), **known}


def costs_by_trial(folder: Path) -> dict[str, dict[str, float]]:
    """Return the images and seconds with one device per peer of every trial, as `docs/records.md` defines them."""
    slowest: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)
    for row in pq.read_table(folder / "rounds.parquet").to_pylist():
        images, seconds = slowest[row["trial_id"]].get(row["round"], (0, 0.0))
        slowest[row["trial_id"]][row["round"]] = (
            max(images, row["train_images"]),
            max(seconds, row["train_s"] + row["exchange_s"]),
        )
    return {
        trial_id: dict(zip(COSTS, map(sum, zip(*rounds.values(), strict=True)), strict=True))
        for trial_id, rounds in slowest.items()
    }


def print_tables(folders: list[Path]) -> None:
    best_trials = []
    for folder in folders:
        provenance = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        trials = pq.read_table(folder / "trials.parquet").to_pylist()
        print(f"\nseed {provenance['seed']}\n")
        columns = [name for name in trials[0] if name not in ("trial_id", "num_peers", "epochs")]
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in trials:
            print(f"| {' | '.join(text(row[name]) for name in columns)} |")
        metrics = json.loads((folder / "best" / "metrics.json").read_text(encoding="utf-8"))["measured"]
        began, ended = (datetime.fromisoformat(provenance[name]) for name in ("started", "finished"))
        best_trials.append(
            {
                "seed": provenance["seed"],
                **{name: metrics[name] for name in MEASURES},
                "run_s": (ended - began).total_seconds(),
            }
        )
    summary = {"n": len(best_trials), "hardware": provenance["hardware"], "commit": provenance["git"]}
    print(f"\nbest trial of each run, n = {len(best_trials)}\n\n| measure | mean | std |\n|---|---|---|")
    for name in (*MEASURES, "run_s"):
        values = [row[name] for row in best_trials]
        std = statistics.stdev(values) if len(values) > 1 else None
        summary[name] = {"mean": statistics.fmean(values), "std": std}
        print(f"| {name} | {text(statistics.fmean(values))} | {text(std)} |")
    print(f"\n{json.dumps(summary)}")


def text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--trials", action="store_true", help="print every trial instead")
    given = parser.parse_args()
    if not given.trials:
        print_tables(given.runs)
        return
    for folder in given.runs:
        for row in trials_of(folder):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
