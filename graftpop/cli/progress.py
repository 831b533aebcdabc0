"""Progress of a study: a live table with one bar on a terminal, plain lines in a file or pipe."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from graftpop.cli.trial_table import TrialTable, sample_text
from graftpop.metrics import Metric, text_of_metric
from graftpop.study.trials import Trial, duration

__all__ = ["LiveProgress", "Pace", "PlainProgress"]

STOPPING = "stopping: saving what is complete; press Ctrl-C again to end at once"

SHOWN_TRIALS = 20
LINES_AROUND = 4  # the heading, the number of hidden trials, the bar, and the cursor
SECONDS_BETWEEN_LINES = 10.0


class Pace:
    """Completed rounds, total rounds and remaining time of a study.

    Rounds of few peers are shorter, so the remaining time follows from the epochs that all peers train. The start of
    processes is left out: the clock begins one round's duration before the end of the first round.

    Args:
        num_trials: number of trials, those not yet created included.
        rounds_of_trial: largest number of rounds of a trial.
        epochs_of_trial: largest number of epochs that the peers of a trial train together.
    """

    def __init__(self, num_trials: int, rounds_of_trial: int, epochs_of_trial: int) -> None:
        self._num_trials = num_trials
        self._rounds_of_trial = rounds_of_trial
        self._epochs_of_trial = epochs_of_trial
        self._start = time.monotonic()
        self._done_before: float | None = None
        self._has_round = False

    def total_rounds(self, trials: Sequence[Trial]) -> int:
        """Return the rounds of all trials; each trial not yet created counts as the longest one."""
        return sum(trial.num_rounds for trial in trials) + self._num_uncreated(trials) * self._rounds_of_trial

    def rounds_done(self, trials: Sequence[Trial]) -> int:
        """Return the completed rounds; a trial that never continues counts with all its rounds."""
        return sum(trial.num_rounds if trial.is_final else trial.round for trial in trials)

    def time_left(self, trials: Sequence[Trial]) -> str:
        """Return the remaining time at the current pace; an empty string before the first round."""
        done = sum(_epochs(trial) * (1.0 if trial.is_final else trial.round / trial.num_rounds) for trial in trials)
        total = sum(map(_epochs, trials)) + self._num_uncreated(trials) * self._epochs_of_trial
        if self._done_before is None:
            self._done_before = done  # epochs of an earlier session say nothing about this one's pace
        if done <= self._done_before:
            return ""
        if not self._has_round:
            self._has_round = True
            took_s = max(trial.result.get("time_s", float("inf")) for trial in trials if trial.round)
            self._start = max(self._start, time.monotonic() - took_s)
        pace_s = (time.monotonic() - self._start) / (done - self._done_before)
        return f"{duration(pace_s * (total - done))} left"

    def _num_uncreated(self, trials: Sequence[Trial]) -> int:
        return max(0, self._num_trials - len(trials))


def _epochs(trial: Trial) -> int:
    """Return the epochs of a trial's peers together; its rounds if an earlier version recorded it without epochs."""
    return trial.num_epochs or trial.num_rounds


class NewEvents:
    """Yields the events of trials, each once."""

    def __init__(self) -> None:
        self._num_shown: dict[str, int] = {}

    def lines(self, trials: Sequence[Trial]) -> Iterator[str]:
        """Yield one line per new event."""
        for trial in trials:
            for event in trial.events[self._num_shown.get(trial.trial_id, 0) :]:
                yield f"trial {trial.number}  {event}"
            self._num_shown[trial.trial_id] = len(trial.events)


class NewEndings:
    """Yields trials that stopped or failed, each once; those of an earlier session are left out."""

    def __init__(self) -> None:
        self._running: set[str] = set()

    def lines(self, trials: Sequence[Trial]) -> Iterator[str]:
        """Yield one line per trial that stopped early or ended with an error since the last call."""
        for trial in trials:
            if not trial.is_over:
                self._running.add(trial.trial_id)
            elif trial.trial_id in self._running:
                self._running.remove(trial.trial_id)
                if trial.status == "stopped":
                    yield (
                        f"trial {trial.number}  stopped early by the scheduler, after round {trial.round} of "
                        f"{trial.num_rounds}"
                    )
                elif trial.error:
                    yield f"trial {trial.number}  {trial.status}: {trial.error}"


def images_per_s(trials: Sequence[Trial]) -> float:
    """Return the images per second of all running trials together."""
    return sum(float(trial.result.get("images_per_s", 0.0)) for trial in trials if trial.status == "running")


class LiveProgress:
    """A table of trials and a bar, redrawn in place."""

    def __init__(self, console: Console, pace: Pace, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self._pace = pace
        self._events, self._endings = NewEvents(), NewEndings()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task("study", total=pace.total_rounds([]), speed="", left="")
        self._trials: Sequence[Trial] = []
        self._live = Live(self, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, trials: list[Trial]) -> None:
        """Redraw the table, and print new events above it."""
        for line in (*self._events.lines(trials), *self._endings.lines(trials)):
            self._print(line)
        speed = images_per_s(trials)
        self._bar.update(
            self._task,
            completed=self._pace.rounds_done(trials),
            total=self._pace.total_rounds(trials),
            speed=f"{speed:,.0f} images/s" if speed else "",
            left=self._pace.time_left(trials),
        )
        self._trials = trials

    def stopping(self) -> None:
        """Print above the table that the study ends."""
        self._print(STOPPING)

    def _print(self, line: str) -> None:
        self._live.console.print(Text(line, style="yellow"), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table and the bar for the size of the terminal, which may have changed."""
        most = max(1, min(SHOWN_TRIALS, console.size.height - LINES_AROUND))
        running = [trial for trial in self._trials if not trial.is_over][:most]
        over = [trial for trial in self._trials if trial.is_over]
        latest = over[max(0, len(over) + len(running) - most) :]
        shown = sorted([*running, *latest], key=lambda trial: trial.number)
        if shown:
            yield TrialTable(shown, self._metrics)
        if hidden := len(self._trials) - len(shown):
            yield Text(f"and {hidden} more trials", style="dim")
        yield self._bar


class PlainProgress:
    """One line when a trial starts, every 10 s while it runs, and when it ends: for files and pipes."""

    def __init__(self, console: Console, pace: Pace, metrics: Sequence[Metric]) -> None:
        self._console = console
        self._primary = metrics[0]
        self._pace = pace
        self._events = NewEvents()
        self._last: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def stopping(self) -> None:
        """Print that the study ends."""
        self._console.print(STOPPING, highlight=False, markup=False, soft_wrap=True)

    def __call__(self, trials: list[Trial]) -> None:
        """Print new events, and the trials whose line is due."""
        for line in self._events.lines(trials):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        for trial in trials:
            status, when = self._last.get(trial.trial_id, ("pending", 0.0))
            now = time.monotonic()
            is_due = trial.status == "running" and trial.round and now - when > SECONDS_BETWEEN_LINES
            if trial.status != status or is_due:
                self._last[trial.trial_id] = (trial.status, now)
                self._console.print(self._line(trial, trials), highlight=False, markup=False, soft_wrap=True)

    def _line(self, trial: Trial, trials: list[Trial]) -> str:
        parts = [f"trial {trial.number} {trial.status}"]
        parts += [f"{key}={sample_text(value)}" for key, value in trial.sample.items()]
        parts.append(f"round {trial.round}/{trial.num_rounds}")
        primary = self._primary
        for label, column in (("val", primary.val), ("test", primary.test), ("ensemble", primary.ensemble)):
            if text := text_of_metric(column, trial.result.get(column)):
                parts.append(f"{label} {text}")
        done, total = self._pace.rounds_done(trials), self._pace.total_rounds(trials)
        parts.append(f"[{done}/{total} rounds{_comma(self._pace.time_left(trials))}]")
        return "  ".join(parts) + (f"  {trial.error}" if trial.error else "")


def _comma(text: str) -> str:
    return f", {text}" if text else ""
