"""The recorder of a study: a Tune callback that writes the run folder's tables and notifies observers."""

import logging
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from graftpop.cluster.heartbeats import Heartbeats, Silence
from graftpop.cluster.loss_reason import failure_reason
from graftpop.cluster.room import RoomWatch
from graftpop.cluster.search import replay_results
from graftpop.errors import CheckpointError, PopulationLost, StorageError
from graftpop.reporting import LiveReport
from graftpop.run.checkpoints import Checkpoints
from graftpop.run.record_files import TRIALS_PER_FOLD
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import retry_on_oserror
from graftpop.space import Space
from graftpop.study.trials import Trial, best_trial, column_types, pareto_front, planned_trial, trials_to_json

__all__ = ["TRIALS", "Recorder"]

SECONDS_BETWEEN_WRITES = 1.0
"""Shortest time between two replacements of the tables."""

logger = logging.getLogger("graftpop")

TRIALS = "tune/trials.json"
"""Every trial with its exact configuration and progress, from which a study resumes."""


class Recorder(Callback):
    """Writes the run folder's tables from Tune's callbacks, and notifies observers.

    Args:
        space: the study's space.
        folder: the run folder.
        watch: called with all trials whenever one changes.
        known: trials of earlier sessions.
        scheduled: the scheduler, to which known results are replayed.
        scores: known validation scores by trial and round.
        room: watches the trials that wait for room.
        heartbeats: heartbeats of the leading processes.
    """

    def __init__(  # the study, what earlier sessions know of it, and the observers of its changes
        self,
        space: Space,
        folder: RunFolder,
        watch: Callable[[list[Trial]], None],
        known: list[Trial],
        scheduled: TrialScheduler,
        scores: Mapping[str, Mapping[int, float]],
        room: RoomWatch,
        heartbeats: Heartbeats,
    ) -> None:
        self._space = space
        self._folder = folder
        self._watch = watch
        self._scheduled, self._scores = scheduled, scores
        self._types = column_types(space.domains)
        self._report = LiveReport(folder)
        self._trials = {trial.trial_id: trial for trial in known}
        self._seen: dict[str, Trial] = {}  # by Tune's IDs
        self._texts: dict[str, str] = {}  # in trials.json, of trials that no longer change
        self._best: tuple[str, str, int] | None = None
        self._keeps_all = space.resolve().tune.keep == "all"
        self._emptied = {trial.trial_id for trial in known if trial.is_final}
        self._written_at = 0.0
        self._is_behind = False
        self._num_folded = 0
        self._room, self._heartbeats, self._silence = room, heartbeats, Silence()
        self._losses: dict[str, str] = {}  # our own causes, by Tune's IDs

    @property
    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers."""
        return sorted(self._trials.values(), key=lambda trial: trial.number)

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Record new trials, trials that wait for room and tables that are due; kill processes that no longer run."""
        for trial, line in self._room.check(trials):
            self._see(trial).events.append(line)
            self._changed()
        self._kill_silent(trials)
        if len(trials) > len(self._seen):
            for trial in trials:
                self._see(trial)
            self._changed(now=True)
        elif self._is_behind and self._folder.is_joining_due:
            self._changed()

    def _kill_silent(self, trials: list[TuneTrial]) -> None:
        """Kill the leading processes that no longer send heartbeats; Tune then counts them as lost."""
        heard = self._heartbeats.heard()
        if heard is None:
            return
        led = {self._see(trial).trial_id: trial for trial in trials if trial.temporary_state.ray_actor is not None}
        for trial_id, cause in self._silence.look(led, heard).items():
            self._losses[led[trial_id].trial_id] = cause
            if actor := led[trial_id].temporary_state.ray_actor:
                ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record the start or restart of a trial."""
        self._see(trial).start()
        self._changed()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a round, or the error of a trial that ends without one."""
        seen = self._see(trial)
        seen.status, seen.error = "running", result.get("error", "")
        seen.sample = self._space.active(trial.config["trial"]["sample"])  # PBT changes it during the trial
        seen.events += result["events"].splitlines()
        if result["round"]:
            seen.result = {key: value for key, value in result.items() if isinstance(value, int | float)}
            seen.wall_s = result["wall_s"]
        self._changed()

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record the end of a trial."""
        seen = self._see(trial)
        is_tested = self._folder.metrics[0].test in seen.result  # after its last round, which may come early
        seen.end("failed" if seen.error else "completed" if is_tested else "stopped")
        trial.run_metadata.metric_n_steps.clear()  # 80 KB per trial, for averages of metrics that nobody reads
        trial.run_metadata.metric_analysis.clear()
        self._changed(now=True, best=True)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record that a trial resumes from its last round."""
        seen = self._see(trial)
        seen.wait()
        seen.events.append(f"resumes from its last round after: {self._reason(trial)}")
        self._changed()

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record a trial that was lost too often or failed."""
        seen = self._see(trial)
        seen.error = self._reason(trial)
        seen.end("interrupted" if _can_resume(trial) else "failed")
        self._changed(now=True, best=True)

    def finish(self) -> None:
        """Write everything a last time, with running trials marked interrupted."""
        for seen in self.trials:
            if not seen.is_over:
                seen.end("interrupted")
        self._emptied.clear()  # a stopped trial may have written its last round since it was emptied
        retry_on_oserror(
            lambda: self._write(best=True, tables=True), f"{self._folder.location}: the tables cannot be written"
        )
        self._report.close()
        self._watch(self.trials)

    def _reason(self, trial: TuneTrial) -> str:
        return self._losses.pop(trial.trial_id, "") or _reason(trial)

    def _see(self, trial: TuneTrial) -> Trial:
        """Return our record of a trial, created at first sight or known from an earlier session."""
        if trial.trial_id not in self._seen:
            planned = trial.config["trial"]
            trial_id = planned["trial_id"]
            if trial_id in self._trials:
                known = self._trials[trial_id]
                known.wait()
                replay_results(self._scheduled, trial, self._folder.metrics[0].val, self._scores[trial_id])
            else:
                settings = self._space.resolve(planned["sample"])
                self._trials[trial_id] = planned_trial(trial_id, self._space.active(planned["sample"]), settings)
            self._seen[trial.trial_id] = self._trials[trial_id]
        return self._seen[trial.trial_id]

    def _changed(self, *, now: bool = False, best: bool = False) -> None:
        """Write the state, the tables if they are due, and notify the observer.

        Writes are throttled unless `now`; `best` also rewrites best/ if another network is the best. New and finished
        trials are written before the observer sees them, so it never knows more than a resumed study.
        """
        if now or time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
            try:
                self._write(best=best)
            except OSError as error:
                # the next change writes everything; the trials write and retry on their own
                logger.warning("%s: cannot be written now, retried at the next change: %s", self._folder.shown, error)
        self._watch(self.trials)

    def _write(self, *, best: bool, tables: bool = False) -> None:
        trials = self.trials
        self._folder.write_text(TRIALS, trials_to_json(trials, self._texts))
        trial_ids, finished = [one.trial_id for one in trials], [one.trial_id for one in trials if one.is_final]
        if best and len(finished) - self._num_folded >= TRIALS_PER_FOLD:
            self._folder.fold_records(trial_ids, finished)
            self._num_folded = len(finished)
        self._is_behind = True
        if tables or self._folder.is_joining_due:
            self._folder.write_trials([self._row(trial) for trial in trials], self._types)
            self._folder.join_records(trial_ids, now=True, finished=finished)
            self._is_behind = False
        self._report.changed()
        if best:
            self._write_best(best_trial(trials, self._folder.metrics[0]))
            if not self._is_behind:  # a reader of the tables finds the networks that they name
                self._remove_networks(trials)
        self._written_at = time.monotonic()

    def _write_best(self, best: Trial | None) -> None:
        if best is None or self._best == (best.trial_id, best.status, best.round):
            return
        for checkpoint in Checkpoints(self._folder.of_trials("checkpoints") / best.trial_id).newest_first():
            metadata = checkpoint.metadata
            if not metadata.round:
                continue  # it holds teachers only
            try:
                peer_file = checkpoint.read(f"peer-{metadata.summary['best_peer']}.safetensors")
            except CheckpointError:
                continue  # the trial reports it when it resumes
            self._folder.write_best(
                peer_file,
                {
                    "trial_id": best.trial_id,
                    "status": best.status,
                    "peer": metadata.summary["best_peer"],
                    "searched": best.sample,
                    "grafted_since_measured": was_grafted(
                        self._folder, best.trial_id, metadata.round, metadata.summary["best_peer"]
                    ),
                    "measured": metadata.summary,
                    "settings": metadata.settings,
                },
            )
            self._best = best.trial_id, best.status, best.round
            return

    def _remove_networks(self, trials: list[Trial]) -> None:
        """Remove the networks of trials that have ended and cannot become the best, if the study keeps the best.

        A search for trade-offs also keeps those of the Pareto front.
        """
        best = best_trial(trials, self._folder.metrics[0])
        if self._keeps_all or best is None or best.status != "completed":
            return
        objectives = self._space.resolve().objectives
        front = pareto_front(map(self._row, trials), objectives) if len(objectives) > 1 else []
        spared = {best.trial_id, *front, *self._emptied}
        for trial in trials:
            if trial.is_final and trial.trial_id not in spared:
                Checkpoints(self._folder.of_trials("checkpoints") / trial.trial_id).remove_networks()
                self._emptied.add(trial.trial_id)

    def _row(self, trial: Trial) -> dict[str, Any]:
        return trial.row(self._folder.metrics)


def was_grafted(folder: RunFolder, trial_id: str, round: int, peer: int) -> bool:
    """Return whether an exchange changed a peer after its evaluation in a round.

    A round evaluates before it exchanges, so a peer's figures may describe its weights before a graft.
    """
    grafts = folder.records_of("grafts", trial_id).select(["round", "receiver", "alpha"])
    return any(row["round"] == round and row["receiver"] == peer and row["alpha"] < 1 for row in grafts.to_pylist())


def _can_resume(trial: TuneTrial) -> bool:
    """Return whether a resumed study can continue a trial: the trial lost processes, nodes or storage."""
    here = Path(trial.pickled_error_file) if trial.pickled_error_file else None
    if here is None or not here.exists():  # the storage of the copy in the run folder may be away
        return False
    error = pickle.loads(here.read_bytes())
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, RayActorError | PopulationLost | StorageError)


def _reason(trial: TuneTrial) -> str:
    """Return in one line why a trial failed; Tune writes the error first on this machine, later to the run folder."""
    here = Path(trial.error_file) if trial.error_file else None
    is_written = here is not None and here.exists()
    text = here.read_text(encoding="utf-8", errors="replace") if here and is_written else str(trial.get_error() or "")
    return failure_reason(text)
