"""Experiment trackers, through Ray's callbacks.

A tracker holds a copy of the run folder's results. It is called in a background thread, so it may be slow, absent or
fail without delaying the study.
"""

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.logger import LoggerCallback

from graftpop.errors import SpaceError
from graftpop.run.background_worker import END_LIMIT_S, BackgroundWorker
from graftpop.run.tables import RunFolder
from graftpop.space import Space
from graftpop.study.trials import Trial

__all__ = ["LOGGERS", "Tracker", "check_trackers"]

FIGURES: Final = (
    "epoch",
    "val_accuracy",
    "mean_val_accuracy",
    "train_loss",
    "num_invalid_filters",
    "images_per_s",
    "train_images",
    "exchange_s",
    "wall_s",
    "num_peers",
    "test_accuracy",
    "ensemble_test_accuracy",
    "parameters",
    "flops",
    "removed_filters",
    "parameters_left",
    "flops_left",
)
"""Columns of a round's report that trackers get; test results come with the last round."""


@dataclass(eq=False)
class Run:
    """One run of a tracker, with the attributes of a Tune trial that Ray's callbacks use."""

    name: str
    config: Mapping[str, Any]
    local_path: str
    trial_id: str = field(init=False)
    is_started: bool = False
    has_failed: bool = False

    def __post_init__(self) -> None:
        self.trial_id = f"{self.name.split()[0]}-{uuid.uuid4().hex[:8]}"  # unique, as Weights & Biases requires

    def __str__(self) -> str:
        return self.name

    # used by Aim only

    @property
    def evaluated_params(self) -> Mapping[str, Any]:
        """The settings."""
        return self.config

    @property
    def path(self) -> str:
        """Folder of the trial's files."""
        return self.local_path

    local_experiment_path = path

    def init_local_path(self) -> None:
        """The folder exists already."""

    def get_ray_actor_ip(self) -> str | None:
        """Return no node; the records have it."""
        return None


class Tracker(Callback):
    """A Tune callback that logs each trial as one run: settings by dotted names, figures by round.

    A resumed trial is logged as a new run, "... (resumed)", because Ray's callbacks cannot reopen one.

    Args:
        name: of the tracker, a key of `LOGGERS`.
        space: of the study.
        folder: the run folder.
        known: trials of earlier sessions.
    """

    def __init__(self, name: str, space: Space, folder: RunFolder, known: list[Trial]) -> None:
        self._inner: Any = LOGGERS[name](space.resolve().name, folder)
        self._space, self._folder = space, folder
        self._resumed = {trial.trial_id for trial in known}  # a trial may have a run before its first round
        self._runs: dict[str, Run] = {}  # by Tune's IDs
        self._is_set_up = False
        self.background = BackgroundWorker(f"tune.trackers: {name}")

    def set_up(self) -> None:
        """Connect the tracker to its destination."""
        if not self._is_set_up:
            self._inner.setup()
            self._is_set_up = True

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
            figures: dict[str, Any] = {name: result[name] for name in FIGURES if name in result}
            self.background.submit(partial(self._log, run, figures | {"training_iteration": result["round"]}))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the trial's run."""
        if trial.trial_id in self._runs:
            run = self._runs.pop(trial.trial_id)
            self.background.submit(partial(self._end, run, failed=run.has_failed))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the run of a trial that failed."""
        if trial.trial_id in self._runs:  # otherwise it never started
            self.background.submit(partial(self._end, self._runs.pop(trial.trial_id), failed=True))

    def finish(self) -> None:
        """End the runs of interrupted trials, and wait for the tracker up to a timeout."""
        for run in self._runs.values():
            self.background.submit(partial(self._end, run, failed=True))
        self.background.submit(self._release_callback)
        self.background.finish()

    def _run_of(self, trial: TuneTrial) -> Run:
        """Return the run of a trial; it starts at first sight."""
        if trial.trial_id not in self._runs:
            planned = trial.config["trial"]
            trial_id = planned["trial_id"]
            config = {"run": self._folder.name, "trial": trial_id, **settings_of(self._space, planned["sample"])}
            run = Run(f"{trial_id} (resumed)" if trial_id in self._resumed else trial_id, config, str(trial.local_path))
            self._runs[trial.trial_id] = run
            self.background.submit(partial(self._start_run, run))
        return self._runs[trial.trial_id]

    def _start_run(self, run: Run) -> None:
        self.set_up()
        if not run.is_started:
            self._inner.log_trial_start(run)
            run.is_started = True

    def _log(self, run: Run, figures: dict[str, Any]) -> None:
        self._start_run(run)
        self._inner.log_trial_result(figures["training_iteration"], run, figures)

    def _end(self, run: Run, *, failed: bool) -> None:
        self._start_run(run)
        self._inner.log_trial_end(run, failed=failed)

    def _release_callback(self) -> None:
        """Delete the callback while Ray still runs, because some callbacks clean up on deletion."""
        self._inner = None


def settings_of(space: Space, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial by dotted names, including the sampled ones."""
    flat: dict[str, Any] = {}

    def collect(tree: Mapping[str, Any], prefix: str) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    collect(space.resolve(sample).model_dump(exclude={"tune"}), "")
    return {**flat, **sample}


def check_trackers(space: Space, folder: RunFolder) -> None:
    """Check that the study's trackers can be logged to.

    Raises:
        GraftpopError: a tracker lacks a login or a destination, or does not answer.
    """
    for name in dict.fromkeys(space.resolve().tune.trackers):
        tracker = Tracker(name, space, folder, [])
        tracker.background.call(tracker.set_up)
        tracker.finish()


def _wandb(project: str, folder: RunFolder) -> LoggerCallback:
    from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor

    class Process(_WandbLoggingActor):
        """Ray's process of a trial, which otherwise dies before its files are written."""

        def run(self) -> None:
            super().run()  # type: ignore[no-untyped-call]  # Ray is untyped there
            self._wandb.teardown()

    class Wandb(WandbLoggerCallback):
        """Ray's callback, which otherwise hides the failure of a trial's process."""

        _logger_actor_cls = Process

        def setup(self, *arguments: Any, **options: Any) -> None:
            try:
                super().setup(*arguments, **options)  # type: ignore[no-untyped-call]  # untyped too
            except ValueError as error:
                raise SpaceError(
                    "tune.trackers: wandb needs a login, got none; run `wandb login`, set WANDB_API_KEY, or "
                    "WANDB_MODE=offline to write to the run folder alone"
                ) from error

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            super().log_trial_result(iteration, trial, result)
            self._raise_if_failed(trial, 0)

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            self._signal_logging_actor_stop(trial)
            try:
                self._raise_if_failed(trial, END_LIMIT_S)
            finally:
                self._cleanup_logging_actors()

        def _raise_if_failed(self, trial: Any, timeout_s: float) -> None:
            ended, _ = ray.wait([self._trial_logging_futures[trial]], timeout=timeout_s)
            try:
                ray.get(ended)
            except RayTaskError as error:
                raise error.cause from error

    # Ray passes only the API key to the trial's process, which may lack this one's environment
    run_folder = None if folder.local_path is None else str(folder.local_path)
    return Wandb(
        project=project,
        group=folder.name,
        dir=os.environ.get("WANDB_DIR", run_folder),
        mode=os.environ.get("WANDB_MODE"),
        entity=os.environ.get("WANDB_ENTITY"),
    )


def _mlflow(experiment: str, folder: RunFolder) -> LoggerCallback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs every table that it creates
    logging.getLogger("alembic").setLevel(logging.WARNING)
    place = os.environ.get("MLFLOW_TRACKING_URI")
    if place is None:
        place = f"sqlite:///{_disk(folder, 'MLflow', 'MLFLOW_TRACKING_URI')}/mlflow.db"
    return MLflowLoggerCallback(place, experiment_name=experiment, tags={"run": folder.name})


def _comet(project: str, folder: RunFolder) -> LoggerCallback:
    os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # as Ray does; it would patch torch
    from comet_ml import get_config  # type: ignore[attr-defined, unused-ignore]  # not in its __all__
    from ray.air.integrations.comet import CometLoggerCallback

    logging.getLogger("comet_ml").setLevel(logging.WARNING)  # it logs every experiment at length
    if get_config()["comet.api_key"]:
        return CometLoggerCallback(project_name=project, tags=[folder.name])
    if "COMET_OFFLINE_DIRECTORY" not in os.environ:
        raise SpaceError(
            "tune.trackers: comet needs a login, got none; set COMET_API_KEY, or COMET_OFFLINE_DIRECTORY to "
            "the folder to write to without one"
        )
    return CometLoggerCallback(online=False, project_name=project, tags=[folder.name])


def _aim(experiment: str, folder: RunFolder) -> LoggerCallback:
    from ray.tune.logger.aim import AimLoggerCallback

    class Aim(AimLoggerCallback):
        """Ray's callback, which otherwise leaves a run without a name."""

        def _create_run(self, trial: Any) -> Any:
            run = super()._create_run(trial)
            run.name = trial.name
            return run

    # system figures and terminal output of this process belong to the study, not to a trial
    return Aim(
        _disk(folder, "Aim", ""), experiment_name=experiment, system_tracking_interval=None, capture_terminal_logs=False
    )


def _disk(folder: RunFolder, tracker: str, variable: str) -> str:
    """Return the run folder's path on a disk."""
    if folder.local_path is None:
        instead = f"set {variable} to its server" if variable else "give --out a folder on a disk"
        raise SpaceError(f"tune.trackers: {tracker} needs a run folder on a disk, got {folder.location}; {instead}")
    return str(folder.local_path)


LOGGERS: Final[Mapping[str, Callable[[str, RunFolder], LoggerCallback]]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "comet": _comet,
    "aim": _aim,
}
"""Functions from the study's name and its run folder to Ray's callback, by tracker."""
