"""Measurement of two implementations in alternating turns of one run, so that other load slows both down alike."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftpop.run.provenance import run_provenance

__all__ = ["NUM_TURNS", "Case", "cpu_timed", "in_turns", "print_table", "report"]

NUM_TURNS = 5


@dataclass(frozen=True)
class Case:
    """One comparison: seconds for the same work, by turn.

    Attributes:
        name: name of the case.
        ours: seconds of graftpop by turn.
        plain: seconds of the baseline by turn.
        shown: other values of the case, by column.
    """

    name: str
    ours: Sequence[float]
    plain: Sequence[float]
    shown: Mapping[str, str | float]

    @property
    def ratios(self) -> list[float]:
        """Baseline's time divided by graftpop's, by turn."""
        return [plain / ours for ours, plain in zip(self.ours, self.plain, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)


def cpu_timed(act: Callable[[], object]) -> Callable[[], float]:
    """Return a function that acts and returns the CPU seconds that this process needed."""

    def run() -> float:
        start = time.process_time()
        act()
        return time.process_time() - start

    return run


def in_turns(*ways: Callable[[], float], num_turns: int) -> list[list[float]]:
    """Run each function once for warm-up, then all in alternating turns.

    Args:
        ways: functions that do their work and return its duration in seconds.
        num_turns: number of turns.

    Returns:
        For each function, the seconds of each turn.
    """
    for way in ways:
        way()
    turns = [[way() for way in ways] for _ in range(num_turns)]
    return [list(seconds) for seconds in zip(*turns, strict=True)]


def report(name: str, unit: str, wanted: float, cases: Sequence[Case], **more: Any) -> None:
    """Print a table of the cases, and one line of JSON with the smallest ratio.

    Args:
        name: name of the benchmark.
        unit: unit of the ratio.
        wanted: goal, the smallest acceptable ratio.
        cases: cases with equal columns.
        more: additional entries of the JSON line.
    """
    columns = ["case", *cases[0].shown, "ratio", "from", "to"]
    rows = [
        [
            case.name,
            *(value if isinstance(value, str) else f"{value:,.4g}" for value in case.shown.values()),
            *(f"{ratio:.2f}" for ratio in (case.ratio, min(case.ratios), max(case.ratios))),
        ]
        for case in cases
    ]
    print_table(columns, rows)
    smallest = min(cases, key=lambda case: case.ratio)
    provenance = run_provenance([], 0)
    print(f"\nsmallest ratio {smallest.ratio:.2f} ({smallest.name}), goal at least {wanted:g}")
    print(
        json.dumps(
            {
                "name": name,
                "ratio": round(smallest.ratio, 3),
                "unit": unit,
                "wanted": wanted,
                "hardware": provenance["hardware"],
                "turns": len(smallest.ours),
                "load_average": os.getloadavg()[0],
                "git": provenance["git"],
                "versions": provenance["versions"],
                "cases": [
                    {
                        "case": case.name,
                        "ratio": round(case.ratio, 3),
                        "ratios": [round(one, 3) for one in case.ratios],
                        **case.shown,
                    }
                    for case in cases
                ],
                **more,
            }
        ),
        flush=True,
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with right-aligned numbers."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    for row in (columns, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
