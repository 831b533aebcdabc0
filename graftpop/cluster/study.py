"""A whole study: trials of populations under a searcher and a scheduler, recorded and watched as they run."""

import json
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, CheckpointConfig, ResumeConfig
from ray.tune.experiment import Trial as TuneTrial

from graftpop.cluster.connection import Connection
from graftpop.cluster.search import param_space, scheduler, searcher
from graftpop.cluster.trainable import PopulationTrainable, demand_of_sample
from graftpop.records import RunFolder
from graftpop.space import Space
from graftpop.trials import Trial, best_trial, column_types

__all__ = ["run_study"]

SECONDS_BETWEEN_WRITES = 1.0
"""While a study runs, its tables are not replaced under a reader more often than this."""

KEPT_CHECKPOINTS = {"none": 1, "asha": 1, "pbt": 4}
"""The best of a trial, besides its last; under pbt others read a trial's checkpoints while it goes on writing them."""


def run_study(space: Space, folder: RunFolder, connection: Connection, watch: Callable[[list[Trial]], None], *,
              resume: bool = False) -> list[Trial]:
    """Run the trials of a study and return them.

    The records are written as the trials go; one SIGINT ends the study after what is being written is written.

    Args:
        space: what is searched.
        folder: where everything is kept.
        connection: the cluster.
        watch: called with all trials whenever one of them changed.
        resume: go on with the study that the folder holds.
    """
    tune_settings = space.settle().tune
    recorder = _Recorder(space, folder, watch)
    trainable = tune.with_parameters(PopulationTrainable, space=space, nodes=connection.nodes, records=folder.records)
    trainable.__name__ = "population"
    warnings.filterwarnings("ignore", message="Consider boosting PBT")  # peers are not yet reused
    ended = tune.run(
        tune.with_resources(trainable, lambda sample: tune.PlacementGroupFactory(
            demand_of_sample(space, sample, connection.nodes).bundles)),
        name="tune",
        storage_path=folder.location,
        config=param_space(space),
        num_samples=1 if tune_settings.search == "grid" else space.num_trials(),
        metric=tune_settings.metric,
        mode=tune_settings.mode,
        search_alg=searcher(space),
        scheduler=scheduler(space),
        checkpoint_config=CheckpointConfig(
            checkpoint_frequency=1, checkpoint_score_attribute=tune_settings.metric,
            checkpoint_score_order=tune_settings.mode,
            num_to_keep=KEPT_CHECKPOINTS[tune_settings.scheduler]),
        trial_dirname_creator=lambda trial: str(trial.trial_id),
        callbacks=[recorder],
        raise_on_failed_trial=False,
        resume_config=ResumeConfig() if resume else None,
        resume=resume,
        verbose=0,
    )
    recorder.finish(ended.trials or [])
    return recorder.trials


class _Recorder(Callback):
    """Turns what Tune says of its trials into the run folder's tables and what is watched."""

    def __init__(self, space: Space, folder: RunFolder, watch: Callable[[list[Trial]], None]) -> None:
        self._space = space
        self._folder = folder
        self._watch = watch
        self._types = column_types(space.domains)
        self._tune_trials: dict[str, TuneTrial] = {}
        self._trials: dict[str, Trial] = {}
        self._written_at = 0.0
        # a resumed study is handed to us in another order, and its trials keep their numbers
        known = folder.read_table("trials")["trial_id"].to_pylist()
        self._numbers = {trial_id: number for number, trial_id in enumerate(known)}

    @property
    def trials(self) -> list[Trial]:
        return sorted(self._trials.values(), key=lambda trial: trial.number)

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if len(trials) > len(self._trials):
            for trial in trials:
                self._see(trial)
            self._watch(self.trials)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._see(trial).status = "running"
        self._changed(now=False)

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any],
                        **info: Any) -> None:
        seen = self._see(trial)
        seen.status, seen.result, seen.wall_s = "running", result, result["time_total_s"]
        seen.sample = dict(trial.config)  # pbt changes it on the way
        self._changed(now=False)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        seen = self._see(trial)
        seen.status = _status_of_terminated(seen)
        self._changed(now=True)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        seen = self._see(trial)
        seen.status, seen.error = "failed", _reason(trial)
        self._changed(now=True)

    def finish(self, trials: list[TuneTrial]) -> None:
        """Write everything once more, with what was still running marked as interrupted."""
        for trial in trials:  # of a study that was resumed when nothing was left to do, none has been seen
            self._see(trial)
        for seen in self.trials:
            if not seen.is_over:
                seen.status = "interrupted"
        self._changed(now=True)

    def _see(self, trial: TuneTrial) -> Trial:
        """Return our view of a trial, made when it is first seen: new, or restored with its last result."""
        self._tune_trials[trial.trial_id] = trial
        if trial.trial_id not in self._trials:
            settings = self._space.settle(trial.config)
            number = self._numbers.setdefault(trial.trial_id, len(self._numbers))
            seen = Trial(trial.trial_id, number, dict(trial.config), settings.num_rounds)
            if trial.last_result and "round" in trial.last_result:
                seen.result, seen.wall_s = trial.last_result, trial.last_result["time_total_s"]
            if trial.status == TuneTrial.TERMINATED:
                seen.status = _status_of_terminated(seen)
            elif trial.status == TuneTrial.ERROR:
                seen.status, seen.error = "failed", _reason(trial)
            self._trials[trial.trial_id] = seen
        return self._trials[trial.trial_id]

    def _changed(self, *, now: bool) -> None:
        self._watch(self.trials)
        if not now and time.monotonic() - self._written_at < SECONDS_BETWEEN_WRITES:
            return
        self._folder.write_trials([trial.row() for trial in self.trials], self._types)
        self._folder.join_records([trial.trial_id for trial in self.trials], now=now)
        if now:
            self._write_best()
        self._written_at = time.monotonic()

    def _write_best(self) -> None:
        best = best_trial(self.trials)
        checkpoint = self._tune_trials[best.trial_id].checkpoint if best else None
        if best is None or checkpoint is None or checkpoint.filesystem is None:
            return
        filesystem, path = checkpoint.filesystem, checkpoint.path
        with filesystem.open_input_stream(f"{path}/population.json") as stream:
            population = json.loads(stream.read())
        summary = population["summary"]
        with filesystem.open_input_stream(f"{path}/peer-{summary['best_peer']}.safetensors") as stream:
            peer_file = stream.read()
        self._folder.write_best(peer_file, {
            "trial_id": best.trial_id, "status": best.status, "peer": summary["best_peer"], "searched": best.sample,
            # a round is measured before its exchange; the last has none: a completed trial's figures are its weights'
            "grafted_since_measured": population["settings"]["graft"] is not None and best.status != "completed",
            "measured": summary, "settings": population["settings"]})


def _status_of_terminated(trial: Trial) -> str:
    return "completed" if trial.round == trial.num_rounds else "stopped"


def _reason(trial: TuneTrial) -> str:
    """Return why a trial failed in one line: our own message where there is one, else what Python said last.

    Tune has written the error as text, here first and to the run folder later.
    """
    here = Path(trial.error_file) if trial.error_file else None
    text = here.read_text(encoding="utf-8") if here and here.exists() else str(trial.get_error() or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if ERROR_LINE.match(line)]
    if not said:
        return lines[-1] if lines else "no reason was given"
    return re.sub(r"^graftpop\.errors\.\w+: ", "", said[-1])


ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")
