"""Trials in experiment trackers, through Ray's own callbacks.

A tracker is a copy: the run folder has it all. So it is served beside the study, and may be slow, away or fail.
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
"""What a tracker has by round, where a round reports it; the test set is read after the last."""


@dataclass(eq=False)
class Run:
    """A trial as a tracker has it, in place of Tune's: what Ray's callbacks ask of a trial, and no more."""

    name: str
    config: Mapping[str, Any]
    local_path: str
    trial_id: str = field(init=False)
    is_begun: bool = False
    has_failed: bool = False

    def __post_init__(self) -> None:
        self.trial_id = f"{self.name.split()[0]}-{uuid.uuid4().hex[:8]}"  # Weights & Biases wants another one each time

    def __str__(self) -> str:
        return self.name

    # what Aim asks for besides

    @property
    def evaluated_params(self) -> Mapping[str, Any]:
        """The settings."""
        return self.config

    @property
    def path(self) -> str:
        """Where the trial's files are."""
        return self.local_path

    local_experiment_path = path

    def init_local_path(self) -> None:
        """Its folder is there."""

    def get_ray_actor_ip(self) -> str | None:
        """Which node leads the trial is in the records."""
        return None


class Tracker(Callback):
    """Lets a tracker have a run a trial: its settings by dotted names, its figures by round.

    A trial that a resumed study goes on with is a new run, whose name says so: of Ray's callbacks none can take up one.

    Args:
        name: of the tracker, one of `LOGGERS`.
        space: of the study.
        folder: of the run.
        known: trials of before.
    """

    def __init__(self, name: str, space: Space, folder: RunFolder, known: list[Trial]) -> None:
        self._inner: Any = LOGGERS[name](space.resolve().name, folder)
        self._space, self._folder = space, folder
        self._resumed = {trial.trial_id for trial in known}  # even before its first round one may have had a run
        self._runs: dict[str, Run] = {}  # by Tune's own ids
        self._is_set_up = False
        self.background = BackgroundWorker(f"tune.trackers: {name}")

    def set_up(self) -> None:
        """Let the tracker connect to whatever it logs to."""
        if not self._is_set_up:
            self._inner.setup()
            self._is_set_up = True

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Begin the trial's run, unless the trial only goes on."""
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
        if trial.trial_id in self._runs:  # else it never began
            self.background.submit(partial(self._end, self._runs.pop(trial.trial_id), failed=True))

    def finish(self) -> None:
        """End the runs of trials that were interrupted, and wait until the tracker has everything, or for a while."""
        for run in self._runs.values():
            self.background.submit(partial(self._end, run, failed=True))
        self.background.submit(self._let_go)
        self.background.finish()

    def _run_of(self, trial: TuneTrial) -> Run:
        """Return the run of a trial, which is begun when it is first seen."""
        if trial.trial_id not in self._runs:
            planned = trial.config["trial"]
            trial_id = planned["trial_id"]
            config = {"run": self._folder.name, "trial": trial_id, **settings_of(self._space, planned["sample"])}
            run = Run(f"{trial_id} (resumed)" if trial_id in self._resumed else trial_id, config, str(trial.local_path))
            self._runs[trial.trial_id] = run
            self.background.submit(partial(self._begin, run))
        return self._runs[trial.trial_id]

    def _begin(self, run: Run) -> None:
        self.set_up()
        if not run.is_begun:
            self._inner.log_trial_start(run)
            run.is_begun = True

    def _log(self, run: Run, figures: dict[str, Any]) -> None:
        self._begin(run)
        self._inner.log_trial_result(figures["training_iteration"], run, figures)

    def _end(self, run: Run, *, failed: bool) -> None:
        self._begin(run)
        self._inner.log_trial_end(run, failed=failed)

    def _let_go(self) -> None:
        """Let the callback go while Ray is still there: some end what is left when they are deleted."""
        self._inner = None


def settings_of(space: Space, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial by dotted names, with what was sampled among them."""
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
    """Check that the trackers that a study wants can be logged to.

    Raises:
        GraftpopError: one of them lacks a login or a place, or does not answer.
    """
    for name in dict.fromkeys(space.resolve().tune.trackers):
        tracker = Tracker(name, space, folder, [])
        tracker.background.call(tracker.set_up)
        tracker.finish()


def _wandb(project: str, folder: RunFolder) -> LoggerCallback:
    from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor

    class Process(_WandbLoggingActor):
        """Ray's process of a trial, which is killed with what writes its files before that is done."""

        def run(self) -> None:
            super().run()  # type: ignore[no-untyped-call]  # Ray has no types there
            self._wandb.teardown()

    class Wandb(WandbLoggerCallback):
        """Ray's callback, which says nothing where the process that it starts for a trial fails."""

        _logger_actor_cls = Process

        def setup(self, *arguments: Any, **options: Any) -> None:
            try:
                super().setup(*arguments, **options)  # type: ignore[no-untyped-call]  # nor here
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

    # Ray lets the trial's process, which may not have this one's environment, know the API key only
    of_run = None if folder.local_path is None else str(folder.local_path)
    return Wandb(
        project=project,
        group=folder.name,
        dir=os.environ.get("WANDB_DIR", of_run),
        mode=os.environ.get("WANDB_MODE"),
        entity=os.environ.get("WANDB_ENTITY"),
    )


def _mlflow(experiment: str, folder: RunFolder) -> LoggerCallback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
    logging.getLogger("alembic").setLevel(logging.WARNING)
    place = os.environ.get("MLFLOW_TRACKING_URI")
    if place is None:
        place = f"sqlite:///{_disk(folder, 'MLflow', 'MLFLOW_TRACKING_URI')}/mlflow.db"
    return MLflowLoggerCallback(place, experiment_name=experiment, tags={"run": folder.name})


def _comet(project: str, folder: RunFolder) -> LoggerCallback:
    os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # as Ray does: it would patch torch
    from comet_ml import get_config  # type: ignore[attr-defined, unused-ignore]  # not in its __all__
    from ray.air.integrations.comet import CometLoggerCallback

    logging.getLogger("comet_ml").setLevel(logging.WARNING)  # it tells of every experiment at length
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
        """Ray's callback, which leaves a run without a name."""

        def _create_run(self, trial: Any) -> Any:
            run = super()._create_run(trial)
            run.name = trial.name
            return run

    # the figures of this process and what it prints are the study's, and no trial's
    return Aim(
        _disk(folder, "Aim", ""), experiment_name=experiment, system_tracking_interval=None, capture_terminal_logs=False
    )


def _disk(folder: RunFolder, tracker: str, variable: str) -> str:
    """Return where the run folder is on a disk."""
    if folder.local_path is None:
        instead = f"set {variable} to its server" if variable else "give --out a folder on a disk"
        raise SpaceError(
            f"tune.trackers: {tracker} would write to the run folder, which is no folder on a disk, got "
            f"{folder.location}; {instead}"
        )
    return str(folder.local_path)


LOGGERS: Final[Mapping[str, Callable[[str, RunFolder], LoggerCallback]]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "comet": _comet,
    "aim": _aim,
}
"""Ray's callback of each tracker, for a name of the study and the folder of its run."""
