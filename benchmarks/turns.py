"""Two ways of doing the same work, measured in turns within one run: who shares the machine slows both down alike."""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftpop.run.provenance import run_provenance

__all__ = ["NUM_TURNS", "Case", "in_turns", "report"]

NUM_TURNS = 5


@dataclass(frozen=True)
class Case:
    """One comparison: seconds that the same work took, turn by turn.

    Attributes:
        name: what was measured.
        ours: seconds by turn.
        plain: seconds by turn, of the other way.
        shown: other figures of the case, by column.
    """

    name: str
    ours: Sequence[float]
    plain: Sequence[float]
    shown: Mapping[str, str | float]

    @property
    def ratios(self) -> list[float]:
        """How many times faster ours was, turn by turn."""
        return [plain / ours for ours, plain in zip(self.ours, self.plain, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)


def in_turns(*ways: Callable[[], float], num_turns: int) -> list[list[float]]:
    """Run each way once unmeasured and then all in turns; each returns the seconds that its work took.

    Returns:
        By way, the seconds of each turn.
    """
    for way in ways:
        way()
    turns = [[way() for way in ways] for _ in range(num_turns)]
    return [list(seconds) for seconds in zip(*turns, strict=True)]


def report(name: str, unit: str, wanted: float, cases: Sequence[Case], **more: Any) -> None:
    """Print a table of the cases, and one line of JSON with the smallest of their ratios.

    Args:
        name: of the benchmark.
        unit: of the ratio.
        wanted: the least that the ratio shall be.
        cases: all with the same columns.
        more: for the JSON line.
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
    facts = run_provenance([], 0)
    print(f"\nsmallest ratio {smallest.ratio:.2f} ({smallest.name}), wanted at least {wanted:g}")
    print(
        json.dumps(
            {
                "name": name,
                "ratio": round(smallest.ratio, 3),
                "unit": unit,
                "wanted": wanted,
                "hardware": facts["hardware"],
                "turns": len(smallest.ours),
                "load_average": os.getloadavg()[0],
                "git": facts["git"],
                "versions": facts["versions"],
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
    """Print a table with its numbers to the right."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    for row in (columns, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
