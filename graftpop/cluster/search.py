"""Searchers and schedulers for Ray Tune: known trials are replayed, new ones come from a sampler.

A resumed study reads the run folder, not Tune's snapshots: those lag behind, are not written atomically, and omit the
scheduler.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.search_generator import SearchGenerator

from graftpop.metrics import Metric
from graftpop.space import Space
from graftpop.study.samplers import Sampler
from graftpop.study.trials import Trial

__all__ = [
    "SuggestedTrials",
    "grid_of",
    "replay_results",
    "replay_final_result",
    "scheduler",
    "search_algorithm",
    "trial_id_of",
    "trials_to_run",
]

ASHA_REDUCTION = 3
ASHA_EARLIEST_ROUND = 5
PBT_INTERVALS = 20
PBT_FEWEST_ROUNDS = 5

NO_CONTROLLER: Any = None
"""In place of Tune's controller, which a scheduler does not use during a replay."""


def trial_id_of(number: int) -> str:
    """Return the ID of a trial by its number, the same in every session of a study."""
    return f"{number:05}"


def trials_to_run(
    space: Space, known: Iterable[Trial], sampler: Sampler, new_numbers: Iterable[int]
) -> Iterator[dict[str, Any]]:
    """Yield the value of `trial` in Tune's config for each trial; new ones are sampled lazily.

    The scheduler pbt changes all keys, including those that do not matter yet, so its trials get values for all keys.

    Args:
        space: the study's space.
        known: trials to resume.
        sampler: source of new configurations.
        new_numbers: numbers of the new trials.
    """
    whole = space.complete if space.resolve().tune.scheduler == "pbt" else dict
    for trial in known:
        yield {"trial_id": trial.trial_id, "sample": whole(trial.sample)}
    for number in new_numbers:
        yield {"trial_id": trial_id_of(number), "sample": whole(sampler.sample(number))}


class _SharedList(list[dict[str, Any]]):
    """A list that Tune does not copy: it copies the space for each trial, which takes quadratic time."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_SharedList":
        return self


def grid_of(trials: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return Tune's search space over independent trials."""
    return {"trial": tune.grid_search(_SharedList(trials))}


class SuggestedTrials(Searcher):
    """A Tune searcher over trials whose configurations depend on earlier results.

    Args:
        trials: all trials, sampled lazily.
        sampler: their source, which also gets their results.
        primary: the metric that selects trials.
    """

    def __init__(self, trials: Iterator[dict[str, Any]], sampler: Sampler, primary: Metric) -> None:
        super().__init__(metric=primary.val, mode=primary.mode)
        self._trials, self._sampler, self._primary = trials, sampler, primary
        self._number_of: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, or `FINISHED`."""
        trial = next(self._trials, None)
        if trial is None:
            return Searcher.FINISHED
        self._number_of[trial_id] = int(trial["trial_id"])
        return {"trial": trial}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a round to the sampler."""
        if not result.get("error"):
            self._sampler.report(self._number_of[trial_id], result["round"], result[self._primary.val])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the end of a trial to the sampler."""
        number = self._number_of.pop(trial_id)
        if error or result is None or result.get("error"):
            self._sampler.tell(number, "failed", {})
        else:
            is_complete = self._primary.test in result  # `done` is set for a trial that the scheduler stops, too
            self._sampler.tell(number, "completed" if is_complete else "stopped", result)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a study reads no snapshot of Tune."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a study reads no snapshot of Tune."""


def search_algorithm(searcher: Searcher | None) -> BasicVariantGenerator | SearchGenerator:
    """Return Tune's driver of a searcher, or of a grid without one; its state is not saved.

    Nothing reads that state, and Tune would pickle the run folder's URI with its credentials into it.
    """
    return _UnsavedGrid() if searcher is None else _UnsavedSearch(searcher)


class _Unsaved(SearchAlgorithm):
    def save_to_dir(self, dirpath: str, *arguments: Any, **options: Any) -> None:
        """Save nothing."""


class _UnsavedGrid(_Unsaved, BasicVariantGenerator): ...


class _UnsavedSearch(_Unsaved, SearchGenerator): ...


def scheduler(space: Space) -> TrialScheduler:
    """Return the scheduler of a study."""
    return SCHEDULERS[space.resolve().tune.scheduler](space)


def _none(space: Space) -> TrialScheduler:
    del space
    return FIFOScheduler()


def _asha(space: Space) -> TrialScheduler:
    """Stop the worse two thirds at 1/9 and 1/3 of the rounds, at round 5 at the earliest.

    A training too short for a rung is never stopped: its first rounds predict little, and little would be saved.
    """
    rounds = space.most_rounds()
    rungs = (rounds // ASHA_REDUCTION**2, rounds // ASHA_REDUCTION)
    first = next((rung for rung in rungs if rung >= ASHA_EARLIEST_ROUND), rounds)
    return ASHAScheduler(
        time_attr="round",
        metric=space.primary.val,
        mode=space.primary.mode,
        max_t=rounds,
        grace_period=first,
        reduction_factor=ASHA_REDUCTION,
    )


def replay_results(scheduler: TrialScheduler, trial: TuneTrial, metric: str, scores: Mapping[int, float]) -> None:
    """Replay a known trial's scores by round, values of a metric, to a scheduler that stops trials."""
    if isinstance(scheduler, ASHAScheduler):
        for round, score in sorted(scores.items()):
            scheduler.on_trial_result(NO_CONTROLLER, trial, {"round": round, metric: score})


def replay_final_result(scheduler: TrialScheduler, trial: Trial, metric: str, scores: Mapping[int, float]) -> None:
    """Replay a finished trial to a scheduler that stops trials."""
    stub = TuneTrial("population", stub=True, trial_id=trial.trial_id)
    scheduler.on_trial_add(NO_CONTROLLER, stub)
    replay_results(scheduler, stub, metric, scores)


def _pbt(space: Space) -> TrialScheduler:
    """Let the worst quarter copy the best and change settings, every 1/20 of the rounds but at least 5 rounds apart.

    Tune multiplies values by 1.2 or 0.8 regardless of their domain, so they are clipped to it.
    """
    interval = max(PBT_FEWEST_ROUNDS, space.most_rounds() // PBT_INTERVALS)
    rng = random.Random(space.resolve().seed)
    mutations: dict[str, Any] = {
        key: list(domain.every_value()) if domain.is_finite else partial(domain.sample, rng)
        for key, domain in space.domains.items()
    }

    def keep_inside(config: dict[str, Any]) -> dict[str, Any]:
        trial = config["trial"]
        sample = {key: domain.clip(trial["sample"][key]) for key, domain in space.domains.items()}
        return {"trial": {**trial, "sample": sample}}

    return PopulationBasedTraining(
        time_attr="round",
        metric=space.primary.val,
        mode=space.primary.mode,
        perturbation_interval=interval,
        burn_in_period=interval,
        hyperparam_mutations={"trial": {"sample": mutations}},
        custom_explore_fn=keep_inside,
    )


SCHEDULERS: Final[Mapping[str, Callable[[Space], TrialScheduler]]] = {"none": _none, "asha": _asha, "pbt": _pbt}
