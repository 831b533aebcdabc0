"""A copy of the trials in an Optuna storage, which `optuna-dashboard` shows while they run.

A study resumes from its run folder alone, so the storage may be slow, away or lost. It is brought up to date once it
answers again, at the latest by --resume.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal

from graftpop.errors import ResourceError, SpaceError, one_line
from graftpop.masking import MASK, masked
from graftpop.metrics import Metric
from graftpop.run.background_worker import BackgroundWorker
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space
from graftpop.study.optuna_space import OptunaSpace
from graftpop.study.trials import Trial

__all__ = ["OptunaStorage", "check_driver", "check_storage", "storage_url"]

URL_VARIABLE: Final = "GRAFTPOP_STORAGE_URL"
"""The variable that has `tune.optuna_storage` with its password, for spaces that have it masked."""

STATES: Final = {
    "pending": "WAITING",
    "interrupted": "WAITING",
    "running": "RUNNING",
    "completed": "COMPLETE",
    "stopped": "PRUNED",
    "failed": "FAIL",
}
"""Optuna's state of each trial status; the last three are final."""


class OptunaStorage:
    """Writes the trials of a run to an Optuna study with the name of the run.

    Call it with all trials whenever one of them changed; a background thread writes the changes.

    Args:
        space: search space of the study.
        folder: folder of the run; a relative path in `tune.optuna_storage` starts there.
        known: trials of an earlier session.
        scores: validation score of the known trials, by trial ID and round.
    """

    def __init__(
        self, space: Space, folder: RunFolder, known: list[Trial], scores: Mapping[str, Mapping[int, float]]
    ) -> None:
        self._searched, self._folder, self._where = OptunaSpace(space.domains), folder, str(storage_url(space))
        self._metrics, self._primary = space.metrics, space.primary
        self._storage: Any = None
        self._scores: dict[str, dict[int, float]] = {trial_id: dict(found) for trial_id, found in scores.items()}
        self._seen: dict[str, tuple[str, int]] = {}
        self._lock = Lock()
        self._pending: dict[int, tuple[Trial, dict[int, float]]] = {}
        self._background = BackgroundWorker("tune.optuna_storage")
        self(known)

    def __call__(self, trials: list[Trial]) -> None:
        """Queue the changes since the last call."""
        changed = [trial for trial in trials if self._seen.get(trial.trial_id) != (trial.status, trial.round)]
        for trial in changed:
            self._seen[trial.trial_id] = trial.status, trial.round
            scores = self._scores.setdefault(trial.trial_id, {})
            if trial.round:
                scores[trial.round] = trial.result[self._primary.val]
            with self._lock:
                self._pending[trial.number] = replace(trial), dict(scores)
        if changed:
            self._background.submit(self._flush)

    def finish(self) -> None:
        """Wait until all changes are written, at most `END_LIMIT_S` seconds."""
        self._background.submit(self._flush)
        self._background.finish()

    def _open(self) -> None:
        import optuna

        storage, name = opened(self._where, self._folder), self._folder.name
        direction: Literal["maximize", "minimize"] = "maximize" if self._primary.mode == "max" else "minimize"
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        study.set_user_attr("run", self._folder.shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([self._primary.val])
        self._study_id, self._storage = storage.get_study_id_from_name(name), storage

    def _flush(self) -> None:
        """Write the pending trials.

        Raises:
            ResourceError: the database failed.
        """
        from optuna.exceptions import StorageInternalError

        try:
            self._write_pending()
        except StorageInternalError as error:
            raise ResourceError(
                f"tune.optuna_storage: cannot be written, got {_shown(self._where)}: {_behind(error)}"
            ) from error

    def _write_pending(self) -> None:
        """Write in order of trial numbers, as Optuna numbers trials itself; a failed trial stays pending."""
        if self._storage is None:
            self._open()
        while True:
            with self._lock:
                if not self._pending:
                    return
                number = min(self._pending)
                newest = self._pending[number]
            self._write(*newest)
            with self._lock:
                if self._pending[number] is newest:
                    del self._pending[number]

    def _write(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """Bring Optuna's trial to the state of ours, whatever state it is in."""
        from optuna.trial import TrialState, create_trial

        storage, state = self._storage, TrialState[STATES[trial.status]]
        if trial.number == storage.get_n_trials(self._study_id):
            storage.create_new_trial(
                self._study_id,
                create_trial(
                    state=TrialState.WAITING,
                    params=self._searched.params(trial.sample),
                    distributions={key: self._searched.distributions[key] for key in trial.sample},
                ),
            )
        optuna_id = storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
        there = storage.get_trial(optuna_id)
        if there.state.is_finished():
            return
        if there.state == TrialState.WAITING and state != TrialState.WAITING:
            storage.set_trial_state_values(optuna_id, TrialState.RUNNING)  # sets its start time
        for round, reached in scores.items():
            if there.intermediate_values.get(round) != reached:
                storage.set_trial_intermediate_value(optuna_id, round, reached)
        if state.is_finished():
            began = self._searched.sample(there.params)
            changed = {key: value for key, value in trial.sample.items() if value != began.get(key)}  # by scheduler pbt
            for name, value in (_attributes(trial, self._metrics) | changed).items():
                storage.set_trial_user_attr(optuna_id, name, value)
            score = None if state == TrialState.FAIL else trial.result.get(self._primary.val)
            storage.set_trial_state_values(optuna_id, state, None if score is None else [score])
        elif state == TrialState.WAITING != there.state:
            storage.set_trial_state_values(optuna_id, state)


def _attributes(trial: Trial, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return a trial's user attributes: its row of `trials.parquet` without searched keys and dates, and its error."""
    attributes = {**trial.row(metrics), "error": trial.error or None}
    return {
        name: value
        for name, value in attributes.items()
        if value is not None and name not in trial.sample and not isinstance(value, datetime)
    }


def check_storage(space: Space, folder: RunFolder) -> None:
    """Check that a new run can write to `tune.optuna_storage`, if that is set.

    Raises:
        GraftpopError: the storage cannot be opened, or holds a study of that name with trials.
    """
    storage = storage_url(space)
    if storage is None:
        return

    def check() -> None:
        names = {summary.study_name: summary.n_trials for summary in _studies(storage, folder)}
        if names.get(folder.name):
            raise SpaceError(
                f"tune.optuna_storage: must hold no study '{folder.name}' yet, got {_shown(storage)} with "
                f"{names[folder.name]} trials of it; choose another --out or another storage"
            )

    background = BackgroundWorker("tune.optuna_storage")
    background.call(check)
    background.finish()


def storage_url(space: Space) -> str | None:
    """Return `tune.optuna_storage` with its password, from the environment if the space has it masked.

    Raises:
        SpaceError: the environment has no URL, or another one.
    """
    url = space.storage_url
    if url is None or MASK not in url or "://" not in url:
        return url
    given = os.environ.get(URL_VARIABLE, "")
    if masked(given) != url:
        found = f"{URL_VARIABLE} '{masked(given)}'" if given else f"no {URL_VARIABLE}"
        raise SpaceError(
            f"tune.optuna_storage: needs its password, which no run folder keeps, got '{url}' and {found}; "
            f"set {URL_VARIABLE} to the same URL with its password"
        )
    return given


def check_driver(space: Space, folder: RunFolder) -> None:
    """Check that the driver of `tune.optuna_storage`'s database is installed, without opening the database.

    Raises:
        SpaceError: the storage's URL or path is invalid, or its driver is not installed.
    """
    storage = storage_url(space)
    if storage is None:
        return
    with _storage_errors(storage):
        if (url := _url(storage, folder)) is not None:
            url.get_dialect().import_dbapi()


def _studies(storage: str, folder: RunFolder) -> list[Any]:
    import optuna

    return optuna.get_all_study_summaries(opened(storage, folder), include_best_trial=False)


def opened(storage: str, folder: RunFolder) -> Any:
    """Return Optuna's storage: a database for a URL, else Optuna's journal in a file.

    Raises:
        SpaceError: the storage cannot be opened.
    """
    import optuna
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _storage_errors(storage):
        if (url := _url(storage, folder)) is not None:
            return RDBStorage(url.render_as_string(hide_password=False))
        return JournalStorage(JournalFileBackend(_place(storage, folder)))


def _url(storage: str, folder: RunFolder) -> Any:
    """Return the URL of a database, with the path of a file in the run folder; None for a journal file."""
    from sqlalchemy import make_url

    if "://" not in storage:
        _place(storage, folder)
        return None
    url = make_url(storage)
    return url.set(database=_place(url.database or "", folder)) if url.get_backend_name() == "sqlite" else url


@contextmanager
def _storage_errors(storage: str) -> Iterator[None]:
    """Turn the errors of a storage inside the block into `SpaceError`."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SpaceError:
        raise
    except ImportError as error:
        raise SpaceError(
            f"tune.optuna_storage: needs the driver of its database, got {_shown(storage)}: {_behind(error)}; "
            f"install it or choose another storage"
        ) from error
    except (OSError, RuntimeError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise SpaceError(f"tune.optuna_storage: cannot be opened, got {_shown(storage)}: {_behind(error)}") from error


def _behind(error: Exception) -> str:
    """Return the first line of a database's error; Optuna's own errors carry it only as their cause."""
    reason = str(error.__cause__ or error)
    return one_line(reason.partition("\n")[0])


def _place(file: str, folder: RunFolder) -> str:
    """Return the absolute path of a file; a relative one starts in the run folder."""
    if not file or file == ":memory:":
        raise SpaceError(
            "tune.optuna_storage: must name a file that other processes can open, got none; write sqlite:///study.db"
        )
    if Path(file).is_absolute():
        return file
    if folder.local_path is None:
        raise SpaceError(
            f"tune.optuna_storage: a relative path needs a run folder on a local disk, got '{file}' and "
            f"{folder.location}; write an absolute path or the URL of a database"
        )
    return str(folder.local_path / file)


def _shown(storage: str) -> str:
    """Return a storage for a message, without user name and password."""
    scheme, mark, rest = storage.partition("://")
    return f"'{scheme}{mark}{rest.rpartition('@')[2]}'"
