"""Tune's trials in experiment trackers, called in a background thread so that the study never waits for them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from graftpop.rows import TrialRow, columns_of
from graftpop.run.background_worker import BackgroundWorker
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space
from graftpop.study.trackers import TRACKERS
from graftpop.study.trials import Trial

__all__ = ["Tracker"]

FIGURES: Final = ("epoch", "train_loss", "num_invalid_filters", "images_per_s", "exchange_s")
"""Columns of a round's report that trackers get, besides those of `trials.parquet` and the means of the metrics."""


@dataclass(eq=False)
class Run:
    """A trial's run in a tracker; `handle` is None until the SDK has started the run."""

    name: str
    config: dict[str, Any]
    handle: Any = None
    has_failed: bool = False


class Tracker(Callback):
    """A Tune callback that logs each trial as one run: settings by dotted names, figures by round.

    A resumed trial is logged as a new run, "... (resumed)", because not every tracker can reopen one.

    Args:
        name: name of the tracker, a key of `TRACKERS`.
        space: the study's space.
        folder: the run folder.
        known: trials of earlier sessions.
    """

    def __init__(self, name: str, space: Space, folder: RunFolder, known: list[Trial]) -> None:
        self._client = TRACKERS[name](space.resolve().name, folder)
        self._space, self._folder = space, folder
        means = (metric.mean for metric in space.metrics)
        self._figures = (*FIGURES, *means, *columns_of(TrialRow, space.metrics))
        self._resumed = {trial.trial_id for trial in known}  # a trial may have a run before its first round
        self._runs: dict[str, Run] = {}  # by Tune's IDs
        self._background = BackgroundWorker(f"tune.trackers: {name}")

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Start the trial's run, unless it runs already."""
        self._run_of(trial)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log a round."""
        run = self._run_of(trial)
        run.has_failed = "error" in result
        if not run.has_failed:
            figures: dict[str, Any] = {name: result[name] for name in self._figures if name in result}
            self._submit(run, partial(self._client.log, step=result["round"], figures=figures))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the trial's run."""
        self._end(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the run of a trial that failed."""
        self._end(trial.trial_id, failed=True)

    def finish(self) -> None:
        """End the runs of interrupted trials, and wait for the tracker up to a timeout."""
        for tune_id in list(self._runs):
            self._end(tune_id, failed=True)
        self._background.submit(self._client.close)
        self._background.finish()

    def _run_of(self, trial: TuneTrial) -> Run:
        """Return the run of a trial, started on the first call."""
        if trial.trial_id not in self._runs:
            planned = trial.config["trial"]
            trial_id = planned["trial_id"]
            config = {"run": self._folder.name, "trial": trial_id, **settings_of(self._space, planned["sample"])}
            run = Run(f"{trial_id} (resumed)" if trial_id in self._resumed else trial_id, config)
            self._runs[trial.trial_id] = run
            self._submit(run, lambda handle: None)
        return self._runs[trial.trial_id]

    def _end(self, tune_id: str, *, failed: bool = False) -> None:
        """End a run, if the trial has one."""
        if run := self._runs.pop(tune_id, None):
            self._submit(run, partial(self._client.end, failed=failed or run.has_failed))

    def _submit(self, run: Run, call: Callable[[Any], None]) -> None:
        """Queue a call with a run's handle. Each call first starts the run, if that has not succeeded yet."""

        def start_and_call() -> None:
            if run.handle is None:
                self._client.connect()
                run.handle = self._client.start(run.name, run.config)
            call(run.handle)

        self._background.submit(start_and_call)


def settings_of(space: Space, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial by dotted names, including the sampled ones."""

    def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]

    return dict(flat(space.resolve(sample).model_dump(exclude={"tune"}))) | dict(sample)
