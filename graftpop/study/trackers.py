"""Clients of experiment trackers, one class per tracker. A tracker gets a copy of the run folder's results."""

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Final

from graftpop.errors import SpaceError
from graftpop.run.background_worker import BackgroundWorker
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space

__all__ = ["TRACKERS", "TrackerClient", "check_destinations", "check_packages", "check_trackers"]

WANDB_TIMEOUT_S: Final = 30.0
"""How long Weights & Biases may take to start a run, and to send its last data; it waits as long again at exit."""


class TrackerClient(ABC):
    """A tracker's SDK, which has one run per trial. It is called in a background thread, so it may wait.

    Args:
        study: name of the study, the tracker's project or experiment.
        folder: the run folder, whose name is the group or a tag of all runs.

    Raises:
        SpaceError: a destination or a login is missing.
    """

    package: ClassVar[str]
    """Module of the SDK, an optional extra."""

    def __init__(self, study: str, folder: RunFolder) -> None:
        self._study, self._folder = study, folder
        self._sdk: Any = import_module(self.package)

    def connect(self) -> None:  # noqa: B027  # not all have a server
        """Check the login or the server; called before each start."""

    @abstractmethod
    def start(self, name: str, config: dict[str, Any]) -> Any:
        """Start a run with settings by dotted names; return the SDK's handle."""

    @abstractmethod
    def log(self, run: Any, step: int, figures: dict[str, float]) -> None:
        """Log the figures of a step."""

    @abstractmethod
    def end(self, run: Any, *, failed: bool) -> None:
        """End a run when its data is sent."""

    def close(self) -> None:  # noqa: B027  # not all have to
        """Release the SDK's resources."""

    def _disk(self, instead: str) -> str:
        """Return the run folder's path on a disk; `instead` is the next step of the error without one."""
        if self._folder.local_path is None:
            raise SpaceError(
                f"tune.trackers: {self.package} needs a run folder on a disk, got {self._folder.location}; {instead}"
            )
        return str(self._folder.local_path)


class MLflow(TrackerClient):
    """A tracking server, or a SQLite file in the run folder."""

    package = "mlflow"

    def __init__(self, study: str, folder: RunFolder) -> None:
        super().__init__(study, folder)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)  # they log every table that they create
        place = os.environ.get("MLFLOW_TRACKING_URI")
        self._uri = place or f"sqlite:///{self._disk('set MLFLOW_TRACKING_URI to its server')}/mlflow.db"

    def connect(self) -> None:
        self._client = self._sdk.MlflowClient(self._uri)
        known = self._client.get_experiment_by_name(self._study)
        self._experiment = known.experiment_id if known else self._client.create_experiment(self._study)

    def start(self, name: str, config: dict[str, Any]) -> Any:
        run = self._client.create_run(self._experiment, run_name=name, tags={"run": self._folder.name}).info.run_id
        params = [self._sdk.entities.Param(key, str(value)) for key, value in config.items()]
        self._client.log_batch(run, params=params)
        return run

    def log(self, run: Any, step: int, figures: dict[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        metrics = [self._sdk.entities.Metric(key, value, now_ms, step) for key, value in figures.items()]
        self._client.log_batch(run, metrics)

    def end(self, run: Any, *, failed: bool) -> None:
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED")


class Wandb(TrackerClient):
    """Weights & Biases: its server, or with WANDB_MODE=offline files in the run folder."""

    package = "wandb"

    def connect(self) -> None:
        settings = self._sdk.setup(self._sdk.Settings(silent=True)).settings
        if settings.mode not in ("offline", "dryrun", "disabled") and not self._sdk.login(prompt=False, verify=False):
            raise SpaceError(
                "tune.trackers: wandb needs a login, got none; run `wandb login`, set WANDB_API_KEY, or "
                "WANDB_MODE=offline to write to the run folder alone"
            )

    def start(self, name: str, config: dict[str, Any]) -> Any:
        return self._sdk.init(
            project=self._study,
            group=self._folder.name,
            name=name,
            config=config,
            dir=os.environ.get("WANDB_DIR") or self._folder.local_path,
            reinit="create_new",
            settings=self._sdk.Settings(
                console="off",  # this process belongs to the study: its output, code and load are not the trial's
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
                stop_fn=lambda: None,  # else the stop button of one run would interrupt the study
                init_timeout=WANDB_TIMEOUT_S,
                finish_timeout=WANDB_TIMEOUT_S,
                finish_timeout_raises=True,
            ),
        )

    def log(self, run: Any, step: int, figures: dict[str, float]) -> None:
        run.log(figures, step=step)

    def end(self, run: Any, *, failed: bool) -> None:
        run.finish(exit_code=int(failed))

    def close(self) -> None:
        self._sdk.teardown()


class Comet(TrackerClient):
    """Comet's server, or archives in COMET_OFFLINE_DIRECTORY."""

    package = "comet_ml"

    def __init__(self, study: str, folder: RunFolder) -> None:
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # its import would patch torch
        super().__init__(study, folder)
        logging.getLogger("comet_ml").setLevel(logging.WARNING)  # it logs every experiment at length
        self._is_online = bool(self._sdk.get_config("comet.api_key"))
        if not self._is_online and "COMET_OFFLINE_DIRECTORY" not in os.environ:
            raise SpaceError(
                "tune.trackers: comet needs a login, got none; set COMET_API_KEY, or COMET_OFFLINE_DIRECTORY to "
                "the folder to write to without one"
            )

    def start(self, name: str, config: dict[str, Any]) -> Any:
        captured = ("log_code", "log_graph", "log_env_details", "log_git_metadata", "log_git_patch", "parse_args")
        kind = self._sdk.Experiment if self._is_online else self._sdk.OfflineExperiment
        run = kind(project_name=self._study, auto_output_logging=False, **dict.fromkeys(captured, False))
        self._sdk.config.set_global_experiment(None)  # else the next run would end this one
        if not run.alive:
            raise ConnectionError("no connection to its server")
        run.set_name(name)
        run.add_tag(self._folder.name)
        run.log_parameters(config)
        return run

    def log(self, run: Any, step: int, figures: dict[str, float]) -> None:
        run.log_metrics(figures, step=step)

    def end(self, run: Any, *, failed: bool) -> None:
        if failed:
            run.add_tag("failed")
        run.end()


class Aim(TrackerClient):
    """An Aim repository in the run folder."""

    package = "aim"

    def __init__(self, study: str, folder: RunFolder) -> None:
        super().__init__(study, folder)
        self._repo = self._disk("give --out a folder on a disk")

    def start(self, name: str, config: dict[str, Any]) -> Any:
        uncaptured = {"system_tracking_interval": None, "capture_terminal_logs": False}
        run = self._sdk.Run(repo=self._repo, experiment=self._study, **uncaptured)
        run.name, run["hparams"] = name, config
        return run

    def log(self, run: Any, step: int, figures: dict[str, float]) -> None:
        run.track(figures, step=step, epoch=figures["epoch"])

    def end(self, run: Any, *, failed: bool) -> None:
        if failed:
            run.add_tag("failed")
        run.close()


TRACKERS: Final[Mapping[str, type[TrackerClient]]] = {"wandb": Wandb, "mlflow": MLflow, "comet": Comet, "aim": Aim}
"""The class of each name in `tune.trackers`."""


def check_packages(space: Space) -> None:
    """Check that the packages of the study's trackers are installed.

    Raises:
        SpaceError: a package is not installed.
    """
    for tracker in space.resolve().tune.trackers:
        package = TRACKERS[tracker].package
        if find_spec(package) is None:
            raise SpaceError(
                f"tune.trackers: {tracker} needs the package {package}, which is not installed; pip "
                f"install 'graftpop[{tracker}]'"
            )


def check_destinations(space: Space, folder: RunFolder) -> None:
    """Check that each of the study's trackers can be imported and has a destination, without calling any server.

    Raises:
        SpaceError: a tracker lacks a destination or a login.
    """
    settings = space.resolve()
    for name in dict.fromkeys(settings.tune.trackers):
        TRACKERS[name](settings.name, folder)


def check_trackers(space: Space, folder: RunFolder) -> None:
    """Check the login or server of each of the study's trackers.

    Raises:
        GraftpopError: a tracker lacks a login or a destination, or does not answer.
    """
    settings = space.resolve()
    for name in dict.fromkeys(settings.tune.trackers):
        client, background = TRACKERS[name](settings.name, folder), BackgroundWorker(f"tune.trackers: {name}")
        background.call(client.connect)
        background.submit(client.close)
        background.finish()
