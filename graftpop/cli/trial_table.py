"""The table of trials on a terminal of any width: no cell is cut."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from graftpop.metrics import Metric, text_of_metric
from graftpop.study.trials import Trial, best_trial

__all__ = ["TrialTable", "sample_text", "value_text"]

STYLES: Final = {
    "running": "cyan",
    "completed": "green",
    "stopped": "yellow",
    "failed": "red",
    "interrupted": "yellow",
    "pending": "dim",
}
MARKS: Final = {
    "running": "\u25b6",
    "completed": "\u2713",
    "stopped": "\u25a0",
    "failed": "\u2717",
    "interrupted": "\u25a1",
    "pending": "\u00b7",
}
"""Signs that replace the words of the statuses where the table is too wide."""

GAP: Final = 2
"""Spaces between two columns."""


def value_text(value: object) -> str:
    """Return a measured value as short text; floats have four digits."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sample_text(value: object) -> str:
    """Return a searched value as short text."""
    return "null" if value is None else value_text(value)


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        head: its heading.
        cells: one text per trial.
        worth: the columns of least worth are left out first.
        styles: style of each cell; empty for none.
        is_text: whether it is aligned to the left.
    """

    head: str
    cells: Sequence[str]
    worth: int
    styles: Sequence[str] = ()
    is_text: bool = False

    @property
    def width(self) -> int:
        """Width of the widest cell, in characters."""
        return max(map(cell_len, (self.head, *self.cells)))


class TrialTable:
    """One row per trial: searched values, round, metrics, images per second.

    The primary metric has four columns, each further one its test score. The table fits the terminal's width when it is
    drawn. Where that is too narrow for all columns, empty ones are left out, then the status becomes a sign, then the
    columns of least worth are left out.

    Args:
        trials: the trials.
        metrics: metrics of the task, the primary first.
        is_whole: continue with the other columns in a further table below, instead of leaving them out.
    """

    def __init__(self, trials: Sequence[Trial], metrics: Sequence[Metric], *, is_whole: bool = False) -> None:
        self._columns, self._status = _columns(trials, metrics), [trial.status for trial in trials]
        self._is_whole = is_whole
        best = best_trial(trials, metrics[0])
        self._is_best = [trial is best for trial in trials]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables for the width of the terminal."""
        if self._is_whole:
            blocks = list(_blocks(self._columns, options.max_width))
        else:
            blocks = [_fitting(self._columns, self._status, options.max_width, with_signs=not options.ascii_only)]
        for number, columns in enumerate(blocks):
            if number:
                yield Text("")
            yield self._table(columns)

    def _table(self, columns: Sequence[Column]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True, header_style="bold")
        for column in columns:
            table.add_column(column.head, justify="left" if column.is_text else "right", no_wrap=True, min_width=1)
        for row, is_best in enumerate(self._is_best):
            cells = (Text(column.cells[row], style=column.styles[row] if column.styles else "") for column in columns)
            table.add_row(*cells, style="bold" if is_best else None)
        return table


def _columns(trials: Sequence[Trial], metrics: Sequence[Metric]) -> list[Column]:
    """Return all columns, in the order in which they are shown."""
    searched = list(dict.fromkeys(key for trial in trials for key in trial.sample))
    names = Counter(key.rpartition(".")[2] for key in searched)
    primary, *others = metrics

    def score(name: str, metric: Metric, column: str, worth: int) -> Column:
        head = f"{name} %" if metric.is_share else name
        texts = (text_of_metric(column, trial.result.get(column)).removesuffix(" %") for trial in trials)
        return Column(head, list(texts), worth)

    speeds = (trial.result.get("images_per_s") for trial in trials)
    return [
        Column("trial", [str(trial.number) for trial in trials], 100),
        Column(
            "status",
            [trial.status for trial in trials],
            99,
            [STYLES.get(trial.status, "dim") for trial in trials],
            is_text=True,
        ),
        *(
            Column(
                name if names[name := key.rpartition(".")[2]] == 1 else key,
                [sample_text(trial.sample[key]) if key in trial.sample else "-" for trial in trials],
                50 - place,
            )
            for place, key in enumerate(searched)
        ),
        Column("round", [f"{trial.round}/{trial.num_rounds}" for trial in trials], 97),
        score("val", primary, primary.val, 98),
        score("mean val", primary, primary.mean, -2),
        score("test", primary, primary.test, 51),
        score("ensemble", primary, primary.ensemble, -1),
        *(score(f"test {metric.label}", metric, metric.test, -3) for metric in others),
        Column("invalid", [value_text(trial.result.get("num_invalid_filters")) for trial in trials], -5),
        Column("images/s", ["" if speed is None else f"{speed:,.0f}" for speed in speeds], -4),
    ]


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _fitting(columns: Sequence[Column], statuses: Sequence[str], width: int, *, with_signs: bool) -> list[Column]:
    """Return the columns that fit, in their order; at least the trial."""
    shown = list(columns)

    def leave_out(dispensable: Iterable[Column]) -> None:
        for column in sorted(dispensable, key=lambda column: column.worth):
            if _width(shown) > width:
                shown.remove(column)

    leave_out([column for column in shown if not any(column.cells)])
    if _width(shown) > width and with_signs:
        signs = [MARKS.get(status, "?") for status in statuses]
        shown = [replace(one, head="", cells=signs) if one.head == "status" else one for one in shown]
    leave_out(shown[1:])
    return shown


def _blocks(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Yield all columns in blocks that fit, each after the number of the trial."""
    first, *others = columns
    block = [first]
    for column in others:
        if len(block) > 1 and _width([*block, column]) > width:
            yield block
            block = [first]
        block.append(column)
    yield block
