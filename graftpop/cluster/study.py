"""A study, new or resumed: trials of populations under a searcher and a scheduler."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ray import tune
from ray.tune.error import TuneError
from ray.tune.logger import TBXLoggerCallback

from graftpop.cluster.connection import Connection, nodes_of_cluster
from graftpop.cluster.heartbeats import Heartbeats
from graftpop.cluster.metrics import MetricsExport
from graftpop.cluster.recorder import TRIALS, Recorder
from graftpop.cluster.room import RoomWatch
from graftpop.cluster.search import (
    SuggestedTrials,
    grid_of,
    replay_final_result,
    scheduler,
    search_algorithm,
    trials_to_run,
)
from graftpop.cluster.stop_notice import StopNotice
from graftpop.cluster.trackers import Tracker
from graftpop.cluster.trainable import PopulationTrainable, leader, placement_of
from graftpop.cluster.tune_environment import callbacks_uncounted, common_environment
from graftpop.cluster.tune_losses import losses_counted
from graftpop.errors import CheckpointError, one_line
from graftpop.metrics import Metric
from graftpop.run.checkpoints import Checkpoints
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space
from graftpop.study.optuna_storage import OptunaStorage
from graftpop.study.samplers import LEARNING, make_sampler
from graftpop.study.trials import Trial, best_trial, recovered_trials, trials_from_json

__all__ = ["read_known", "run_study"]

SECONDS_BETWEEN_COPIES = "60"
"""Time between two snapshots of Tune, whose cost grows with the number of trials."""

logger = logging.getLogger("graftpop")


def run_study(
    space: Space,
    folder: RunFolder,
    connection: Connection,
    watch: Callable[[list[Trial]], None],
    on_stop: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """Run the unfinished trials of a study and return all its trials.

    Records are written while trials run. One SIGINT ends the study after pending writes.

    Args:
        space: the study's space.
        folder: the run folder, with the trials of earlier sessions.
        connection: the cluster.
        watch: called with all trials whenever one changes.
        on_stop: called when a SIGINT ends the study, before pending records are written.

    Raises:
        ResourceError: no trial found room for a long time; the cluster has lost nodes.
        CheckpointError: another version of graftpop wrote a checkpoint that the study needs.
    """
    known = read_known(folder, space)
    tuned, scheduled = space.resolve().tune, scheduler(space)
    sampler, scores = make_sampler(space), scores_by_round(folder, known, space.primary)
    trackers = [Tracker(name, space, folder, known) for name in dict.fromkeys(tuned.trackers)]
    stored = [OptunaStorage(space, folder, known, scores)] if tuned.optuna_storage is not None else []
    metrics = MetricsExport(folder.name, space.metrics)

    def notify(trials: list[Trial]) -> None:
        for storage in stored:
            storage(trials)
        metrics.watch(trials)
        watch(trials)

    unfinished = [trial for trial in known if not trial.is_final]
    new_numbers = range(len(known), space.num_trials())
    num_trials = len(unfinished) + len(new_numbers)
    room, heartbeats = RoomWatch(folder.location, num_trials, nodes_of_cluster), Heartbeats()
    recorder = Recorder(space, folder, notify, known, scheduled, scores, room, heartbeats)
    for trial in known:
        sampler.recall(trial, scores[trial.trial_id])
        if trial.is_final:
            replay_final_result(scheduled, trial, space.primary.val, scores[trial.trial_id])
    with ExitStack() as ending:
        for finish in (
            *(one.finish for one in trackers),
            *(one.finish for one in stored),
            recorder.finish,
            heartbeats.close,
        ):
            ending.callback(finish)  # in reverse order
        if num_trials:
            to_run = trials_to_run(space, unfinished, sampler, new_numbers)
            suggests = tuned.sampler in LEARNING
            os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # those would restart in a resumed study
            # Tune copies all its files to the run folder each time, TensorBoard's events among them
            os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", SECONDS_BETWEEN_COPIES)
            ending.enter_context(losses_counted(room.no_room))
            ending.enter_context(common_environment())
            ending.enter_context(callbacks_uncounted())
            ending.enter_context(_own_errors())
            tune.run(
                leader(
                    PopulationTrainable,
                    lambda config: placement_of(space, config, connection),
                    space=space,
                    nodes=connection.nodes,
                    location=folder.location,
                    heart=heartbeats.heart,
                ),
                name="tune",
                storage_path=folder.location,
                config={} if suggests else grid_of(to_run),
                num_samples=num_trials if suggests else 1,
                search_alg=search_algorithm(SuggestedTrials(to_run, sampler, space.primary) if suggests else None),
                scheduler=scheduled,
                max_failures=tuned.max_failures,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.config["trial"]["trial_id"]),
                callbacks=[StopNotice(on_stop), recorder, metrics, TBXLoggerCallback(), *trackers],
                raise_on_failed_trial=False,
                verbose=0,
            )
    metrics.finish()
    return recorder.trials


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the error of a callback itself, where Tune raises another with its traceback as text."""
    try:
        yield
    except TuneError as error:
        raise error.__context__ or error from None


def read_known(folder: RunFolder, space: Space) -> list[Trial]:
    """Return the trials of a run; unfinished ones are marked interrupted.

    If `tune/trials.json` is absent or damaged, they come from `trials.parquet`, or else from their checkpoints when
    they start.

    Raises:
        CheckpointError: another version of graftpop wrote a checkpoint that the study needs.
    """
    problem, known = f"{TRIALS}: absent", list[Trial]()
    try:
        if folder.exists(TRIALS):
            known = trials_from_json(folder.read_text(TRIALS))
            problem = ""
    except (CheckpointError, UnicodeDecodeError) as error:
        problem = str(error) if isinstance(error, CheckpointError) else f"{TRIALS}: damaged: {one_line(error)}"
    if problem and folder.exists("trials.parquet"):
        logger.warning("%s/%s; its trials are recovered from trials.parquet", folder.shown, problem)
        known = recovered_trials(folder, space)
    elif problem and folder.of_trials("checkpoints").exists():
        logger.warning("%s/%s; its trials are sampled again, and resume from their checkpoints", folder.shown, problem)
    for trial in known:
        if not trial.is_over:
            trial.status = "interrupted"
    best = best_trial(known, space.primary)
    for trial in known:
        if trial is best or not trial.is_final:
            # refuses another version's checkpoint now, before a trial starts
            next(Checkpoints(folder.of_trials("checkpoints") / trial.trial_id).newest_first(), None)
    return known


def scores_by_round(folder: RunFolder, known: list[Trial], primary: Metric) -> dict[str, dict[int, float]]:
    """Return the best peer's value of a metric on the validation split, by trial and round."""
    folder.join_records(
        [trial.trial_id for trial in known], now=True, finished=[trial.trial_id for trial in known if trial.is_final]
    )
    scores: dict[str, dict[int, float]] = {trial.trial_id: {} for trial in known}
    for row in folder.read_table("rounds").select(["trial_id", "round", primary.val]).to_pylist():
        of_trial, round, score = scores[row["trial_id"]], row["round"], row[primary.val]
        of_trial[round] = max(score, of_trial.get(round, score), key=primary.merit)
    return scores
