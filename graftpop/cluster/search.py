"""Search domains, searchers and schedulers, in Ray Tune's terms."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from graftpop.space import Domain, Space

__all__ = ["param_space", "scheduler", "searcher"]

ASHA_REDUCTION = 3
ASHA_EARLIEST_ROUND = 5
PBT_INTERVALS = 20
PBT_FEWEST_ROUNDS = 5


def param_space(space: Space) -> dict[str, Any]:
    """Return the searched keys with Tune's domains; everything else of a space reaches a trial as it is."""
    if space.settle().tune.search == "grid":
        return {key: tune.grid_search(list(domain.every_value())) for key, domain in space.domains.items()}
    return {key: _tune_domain(domain) for key, domain in space.domains.items()}


def _tune_domain(domain: Domain) -> Any:
    return TUNE_DOMAINS[domain.kind](domain.values)


TUNE_DOMAINS: Final[Mapping[str, Callable[[tuple[Any, ...]], Any]]] = {
    "choice": lambda values: tune.choice(list(values)),
    "uniform": lambda values: tune.uniform(*values),
    "loguniform": lambda values: tune.loguniform(*values),
    "quniform": lambda values: tune.quniform(*values),
    "randint": lambda values: tune.randint(values[0], values[1] + 1),  # Tune's excludes the upper bound
}


def searcher(space: Space) -> Searcher | SearchAlgorithm:
    """Return the searcher of a study, seeded."""
    settings = space.settle()
    return SEARCHERS[settings.tune.search](settings.seed)


def _optuna(seed: int) -> Searcher:
    import optuna
    from optuna.samplers import TPESampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # constant_liar: trials that run side by side are not all sent to the same place
    return OptunaSearch(sampler=TPESampler(seed=seed % 2**32, constant_liar=True), study_name="graftpop")


def _variants(seed: int) -> SearchAlgorithm:
    return BasicVariantGenerator(random_state=seed % 2**32)


SEARCHERS: Final[Mapping[str, Callable[[int], Searcher | SearchAlgorithm]]] = {
    "optuna": _optuna, "random": _variants, "grid": _variants,
}


def scheduler(space: Space) -> TrialScheduler:
    """Return the scheduler of a study."""
    return SCHEDULERS[space.settle().tune.scheduler](space)


def _none(space: Space) -> TrialScheduler:
    del space
    return FIFOScheduler()


def _asha(space: Space) -> TrialScheduler:
    """Stop the worse two thirds at a ninth and at a third of the rounds, where that is not before the fifth.

    A training too short for that is not stopped at all: its first rounds say little, and little would be saved.
    """
    rounds = space.most_rounds()
    rungs = (rounds // ASHA_REDUCTION**2, rounds // ASHA_REDUCTION)
    first = next((rung for rung in rungs if rung >= ASHA_EARLIEST_ROUND), rounds)
    return ASHAScheduler(time_attr="round", max_t=rounds, grace_period=first, reduction_factor=ASHA_REDUCTION)


def _pbt(space: Space) -> TrialScheduler:
    """Every twentieth of the rounds, but at least 5, let the worst quarter go on from the best with settings changed.

    Tune multiplies by 1.2 or 0.8 without regard to the domain, so what leaves it is brought back.
    """
    interval = max(PBT_FEWEST_ROUNDS, space.most_rounds() // PBT_INTERVALS)
    rng = random.Random(space.settle().seed)
    mutations: dict[str, Any] = {
        key: list(domain.every_value()) if domain.is_finite else partial(domain.sample, rng)
        for key, domain in space.domains.items()}

    def keep_inside(config: dict[str, Any]) -> dict[str, Any]:
        return config | {key: domain.clip(config[key]) for key, domain in space.domains.items()}

    return PopulationBasedTraining(time_attr="round", perturbation_interval=interval, burn_in_period=interval,
                                   hyperparam_mutations=mutations, custom_explore_fn=keep_inside)


SCHEDULERS: Final[Mapping[str, Callable[[Space], TrialScheduler]]] = {"none": _none, "asha": _asha, "pbt": _pbt}
