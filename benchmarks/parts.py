"""Run a comparison in parts, on one machine after another: the trials that an entry's results lack.

    python benchmarks/parts.py ENTRY --runs FOLDER [--seeds 0 1 ...] [--variants NAME...] [--minutes M]
    python benchmarks/parts.py ENTRY --collect RUN...

ENTRY is a folder of `benchmarks/` with a `space.yaml`. Its seeds run one after another, each with the variants that it
lacks, so that every complete seed is a paired comparison; `--seeds` and `--variants` choose what runs first. After
each run, also one ended by Ctrl-C or the time limit, its complete trials are added to ENTRY/results.jsonl, with the
commit, processor and precision of their run. A seed keeps the precision of its first trial, whatever `auto` means on
the next machine. `--collect` adds the trials of runs started by hand.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from summary import trials_of

ROOT = Path(__file__).resolve().parents[1]
STOP_LIMIT_S = 300.0


def read_results(entry: Path) -> list[dict[str, Any]]:
    """Return the trials of an entry so far."""
    file = entry / "results.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def missing(space: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[int, list[str]]:
    """Return the variants that each seed of a comparison lacks, in the order of the space."""
    done = {(row["seed"], row["variant"]) for row in results}
    lacks = {seed: [name for name in space["variants"] if (seed, name) not in done] for seed in space["seeds"]}
    return {seed: variants for seed, variants in lacks.items() if variants}


def part(space: dict[str, Any], seed: int, variants: Sequence[str], precision: str | None) -> dict[str, Any]:
    """Return the space of some variants of one seed; a precision of None leaves the space's."""
    shorter = space | {"seeds": [seed], "variants": {name: space["variants"][name] for name in variants}}
    if space["baseline"] not in variants:
        shorter["baseline"] = variants[0]
    if precision is not None:
        shorter["training"] = space["training"] | {"precision": precision}
    return shorter


def precision_of(seed: int, results: Sequence[dict[str, Any]]) -> str | None:
    """Return the precision of a seed's trials so far, None without trials."""
    return next((row["precision"] for row in results if row["seed"] == seed), None)


def complete_trials(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete trials of a run, with the commit, processor and precision of the run."""
    provenance = json.loads((run / "run.json").read_text(encoding="utf-8"))
    precision = yaml.safe_load((run / "space.yaml").read_text(encoding="utf-8"))["training"].get("precision", "auto")
    for row in trials_of(run):
        if row["status"] == "completed":
            yield row | {
                "commit": provenance["git"]["commit"],
                "processor": provenance["hardware"]["processor"],
                "precision": provenance["hardware"]["auto_precision"] if precision == "auto" else precision,
            }


def collect(entry: Path, run: Path) -> None:
    """Add the complete trials of a run to an entry's results; a trial that is there already stays as it is."""
    results = read_results(entry)
    there = {(row["seed"], row["variant"]) for row in results}
    new = [row for row in complete_trials(run) if (row["seed"], row["variant"]) not in there]
    order = list(yaml.safe_load((entry / "space.yaml").read_text(encoding="utf-8"))["variants"])
    rows = sorted([*results, *new], key=lambda row: (row["seed"], order.index(row["variant"])))
    (entry / "results.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(f"{entry.name}: {len(new)} trials added from {run}, {len(rows)} in all")


def run_part(space: dict[str, Any], run: Path, deadline: float) -> bool:
    """Run or resume a part until it ends or the deadline, in `time.monotonic` seconds; return whether it ended."""
    file, text = run.with_name(f"{run.name}.yaml"), yaml.safe_dump(space, sort_keys=False)
    if run.exists():
        if file.read_text(encoding="utf-8") != text:
            sys.exit(f"{run}: holds other variants or settings than this part; move it away")
        options = ["--resume", str(run.resolve())]
    else:
        run.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        options = ["--space", str(file.resolve()), "--out", str(run.resolve())]
    driver = subprocess.Popen([sys.executable, "-m", "graftpop.tune", *options], cwd=ROOT)
    try:
        driver.wait(max(0.0, deadline - time.monotonic()))
    except KeyboardInterrupt:  # the terminal has interrupted the driver too
        driver.wait(STOP_LIMIT_S)
        return False
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGINT)
        driver.wait(STOP_LIMIT_S)
        return False
    return driver.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--variants", nargs="+", metavar="NAME")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--collect", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args()
    if options.collect:
        for run in options.collect:
            collect(options.entry, run)
        return

    deadline = time.monotonic() + 60 * options.minutes
    space = yaml.safe_load((options.entry / "space.yaml").read_text(encoding="utf-8"))
    for seed, variants in missing(space, read_results(options.entry)).items():
        if options.seeds and seed not in options.seeds:
            continue
        if options.variants:
            variants = [name for name in variants if name in options.variants]
        if not variants:
            continue
        precision = precision_of(seed, read_results(options.entry))
        run = options.runs / f"{space['name']}-{seed}-{variants[0]}-and-{len(variants) - 1}"
        ended = run_part(part(space, seed, variants, precision), run, deadline)
        collect(options.entry, run)
        if not ended:
            sys.exit(1)


if __name__ == "__main__":
    main()
