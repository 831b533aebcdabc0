"""Measure the samplers: the median regret of each after short studies, against random sampling.

    python benchmarks/search.py [--grid RUN] [--seeds 100] [--trials 8 16 32 64] [--out results.jsonl]
    python benchmarks/search.py --cost 100 300 1000    seconds per choice after so many trials; about three minutes

Three surfaces: one measured on the digits over A, c and the number of peers, and two closed ones, Branin with a choice
beside it and Hartmann's in three dimensions. The measured one comes from the study of search_surface.yaml:

    python -m graftpop.tune --space benchmarks/search_surface.yaml --out RUN

A trial on it gets the validation accuracy of one seed of the nearest grid point, drawn at random. Regret is the best
value of the surface minus the value at the best observed trial, on the measured surface by the mean over its seeds.
Trials run one after the other, without points to try first. The ratio is random's median regret divided by tpe's after
16 trials, the smallest of the surfaces.

With `--cost` a sampler gets the results of so many random samples, as in a resumed study, and then chooses the next
ones with one thread, each followed by its result. The table has the median seconds per choice, with the smallest and
the largest.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from turns import print_table

from graftpop.run.provenance import run_provenance
from graftpop.seeds import derive
from graftpop.space import parse_space
from graftpop.study.samplers import make_sampler
from graftpop.study.trials import Trial

GRID = Path(__file__).parent / "2026-11-29_search_2-cores" / "surface.parquet"
SAMPLERS = ("random", "qmc", "tpe", "gp")
NUM_CHOICES = 5
CURVE: dict[str, Any] = {"A": {"uniform": [0.0, 1.0]}, "c": {"loguniform": [1.0, 500.0]}}
HARTMANN_WEIGHTS = (1.0, 1.2, 3.0, 3.2)
HARTMANN_SCALES = ((3, 10, 30), (0.1, 10, 35), (3, 10, 30), (0.1, 10, 35))
HARTMANN_CENTERS = (
    (0.3689, 0.1170, 0.2673),
    (0.4699, 0.4387, 0.7470),
    (0.1091, 0.8732, 0.5547),
    (0.0381, 0.5743, 0.8828),
)


@dataclass(frozen=True)
class Surface:
    """A function to maximize over a space.

    Attributes:
        name: name of the surface.
        sections: sections of the space, with the searched keys.
        value: returns the value of a sample.
        observed: returns what a trial measures, given a generator for its noise.
        best: the largest value.
    """

    name: str
    sections: Mapping[str, Any]
    value: Callable[[Mapping[str, Any]], float]
    observed: Callable[[Mapping[str, Any], random.Random], float]
    best: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=Path, default=GRID, help="run of search_surface.yaml, or its trials.parquet")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--trials", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--out", type=Path, help="file to which results are appended; those it has are not repeated")
    parser.add_argument("--cost", type=int, nargs="+", help="measure seconds per choice after so many trials instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = given.grid / "trials.parquet" if given.grid.is_dir() else given.grid
    surfaces = [digits(file), branin(), hartmann()]
    if given.cost:
        report_cost(surfaces, given.cost)
        return
    there = given.out.read_text().splitlines() if given.out and given.out.exists() else []
    regrets: dict[tuple[str, int, str], list[float]] = {
        (line["surface"], line["trials"], line["sampler"]): line["regrets"] for line in map(json.loads, there)
    }
    for surface in surfaces:
        for num_trials in given.trials:
            for sampler in SAMPLERS:
                if len(regrets.get((surface.name, num_trials, sampler), [])) == given.seeds:
                    continue
                start = time.monotonic()
                found = [regret(surface, sampler, num_trials, seed) for seed in range(given.seeds)]
                regrets[surface.name, num_trials, sampler] = found
                took = time.monotonic() - start
                print(f"{surface.name} {num_trials} {sampler}: {took:.0f} s", file=sys.stderr, flush=True)
                if given.out:
                    line = {"surface": surface.name, "trials": num_trials, "sampler": sampler, "regrets": found}
                    with given.out.open("a") as lines:
                        lines.write(json.dumps(line) + "\n")
    report(regrets, given.trials, [surface.name for surface in surfaces])


def regret(surface: Surface, sampler: str, num_trials: int, seed: int) -> float:
    """Return the regret of one study."""
    tune = {"sampler": sampler, "num_samples": num_trials, "first": []}
    space = parse_space({"seed": seed, "tune": tune, **surface.sections})
    chooser, noise = make_sampler(space), random.Random(derive(seed, "noise"))
    trials = []
    for number in range(num_trials):
        sample = chooser.sample(number)
        measured = surface.observed(sample, noise)
        chooser.tell(number, "completed", {"val_accuracy": measured})
        trials.append((measured, surface.value(sample)))
    return surface.best - max(trials, key=lambda trial: trial[0])[1]


def choice_s(surface: Surface, sampler: str, num_trials: int) -> list[float]:
    """Return the seconds of each of the choices after a number of trials."""
    tune = {"sampler": sampler, "num_samples": num_trials + NUM_CHOICES, "first": []}
    space = parse_space({"tune": tune, **surface.sections})
    chooser, rng, seconds = make_sampler(space), random.Random(0), []
    for number in range(num_trials):
        sample = space.sample(rng)
        result = {"val_accuracy": surface.observed(sample, rng)}
        chooser.recall(Trial(str(number), number, sample, 1, "completed", result), {})
    for number in range(num_trials, num_trials + NUM_CHOICES):
        start = time.perf_counter()
        sample = chooser.sample(number)
        seconds.append(time.perf_counter() - start)
        chooser.tell(number, "completed", {"val_accuracy": surface.observed(sample, rng)})
    return seconds


def report_cost(surfaces: Sequence[Surface], trials: Sequence[int]) -> None:
    """Print the seconds per choice of each sampler, and one line of JSON."""
    cases, rows = [], []
    for surface in surfaces:
        for num_trials in trials:
            found = {sampler: choice_s(surface, sampler, num_trials) for sampler in SAMPLERS}
            cases.append({"surface": surface.name, "trials": num_trials, "seconds": found})
            cells = [f"{statistics.median(by):.2g} ({min(by):.2g}-{max(by):.2g})" for by in found.values()]
            rows.append([surface.name, f"{num_trials:,}", *cells])
            print(f"{surface.name} {num_trials}", file=sys.stderr, flush=True)
    print_table(["surface", "trials", *SAMPLERS], rows)
    provenance = run_provenance([], 0)
    line = {"name": "choice_s", "cases": cases, **{name: provenance[name] for name in ("git", "versions", "hardware")}}
    print(json.dumps(line), flush=True)


def report(regrets: Mapping[tuple[str, int, str], Sequence[float]], trials: Sequence[int], names: list[str]) -> None:
    """Print the median regrets with their quartiles, and one line of JSON with the ratio."""
    rows = []
    for name in names:
        for num_trials in trials:
            cells = []
            for sampler in SAMPLERS:
                low, middle, high = statistics.quantiles(regrets[name, num_trials, sampler], n=4)
                cells.append(f"{middle:.4f} ({low:.4f}-{high:.4f})")
            rows.append([name, str(num_trials), *cells])
    print_table(["surface", "trials", *SAMPLERS], rows)
    ratios = {}
    for name in names:
        by_random, by_tpe = (statistics.median(regrets[name, 16, sampler]) for sampler in ("random", "tpe"))
        ratios[name] = by_random / by_tpe if by_tpe else math.inf if by_random else 1.0
    provenance = run_provenance([], 0)
    smallest = min(ratios, key=lambda name: ratios[name])
    print(f"\nsmallest ratio {ratios[smallest]:.2f} ({smallest}), goal above 1")
    line = {
        "name": "search",
        "ratio": round(ratios[smallest], 3),
        "unit": "random's median regret by tpe's, 16 trials",
        "wanted": 1.0,
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "seeds": len(next(iter(regrets.values()))),
        "git": provenance["git"],
        "versions": provenance["versions"],
        "hardware": provenance["hardware"],
    }
    print(json.dumps(line), flush=True)


def digits(file: Path) -> Surface:
    """Return the measured surface; between grid points the nearest one counts, of c by its logarithm."""
    measured: dict[tuple[float, float, int], list[float]] = defaultdict(list)
    for row in pq.read_table(file).to_pylist():
        measured[row["graft.A"], row["graft.c"], row["population.num_peers"]].append(row["val_accuracy"])
    of_A, of_c = ({point[place] for point in measured} for place in (0, 1))

    def at(sample: Mapping[str, Any]) -> list[float]:
        nearest_A = min(of_A, key=lambda A: abs(A - sample["graft.A"]))
        nearest_c = min(of_c, key=lambda c: abs(math.log(c / sample["graft.c"])))
        return measured[nearest_A, nearest_c, sample["population.num_peers"]]

    peers = [point[2] for point in measured]
    return Surface(
        "digits",
        {"graft": CURVE, "population": {"num_peers": {"randint": [min(peers), max(peers)]}}},
        lambda sample: statistics.mean(at(sample)),
        lambda sample, noise: noise.choice(at(sample)),
        max(map(statistics.mean, measured.values())),
    )


def branin() -> Surface:
    """Return Branin's function over A and log c, negated, beside a choice without A and c that is worth -10."""

    def value(sample: Mapping[str, Any]) -> float:
        if "graft.A" not in sample:
            return -10.0
        x, y = 15 * float(sample["graft.A"]) - 5, 15 * math.log(sample["graft.c"], 500)
        bent = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
        return -(bent**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)

    sections = {"graft": CURVE | {"alpha": {"choice": ["adaptive", 0.5]}}}
    return Surface("branin with a choice", sections, value, lambda sample, noise: value(sample), -0.397887)


def hartmann() -> Surface:
    """Return Hartmann's function over A, log c and momentum."""

    def value(sample: Mapping[str, Any]) -> float:
        point: tuple[float, ...] = (
            sample["graft.A"],
            math.log(sample["graft.c"], 500),
            sample["training.momentum"] / 0.9,
        )
        return math.fsum(
            weight * math.exp(-sum(k * (x - p) ** 2 for k, x, p in zip(scales, point, center, strict=True)))
            for weight, scales, center in zip(HARTMANN_WEIGHTS, HARTMANN_SCALES, HARTMANN_CENTERS, strict=True)
        )

    sections = {"graft": CURVE, "training": {"momentum": {"uniform": [0.0, 0.9]}}}
    return Surface("hartmann3", sections, value, lambda sample, noise: value(sample), 3.86278)


if __name__ == "__main__":
    main()
