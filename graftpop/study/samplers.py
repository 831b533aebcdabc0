"""Which configuration each trial of a study has: the n-th of a grid, the n-th draw, or what Optuna suggests.

A configuration is a function of the seed, the trial's number and, for Optuna, of what is known of other trials by then.
Nothing needs to be stored but the trials themselves: a study that is resumed tells a new sampler what it has.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from graftpop.seeds import derive
from graftpop.space import Space
from graftpop.study.optuna_space import OptunaSpace
from graftpop.study.trials import Trial

__all__ = ["Sampler", "make_sampler"]


class Sampler(Protocol):
    """Where configurations come from."""

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """Learn of a trial of before; of all of them, in the order of their numbers, before any other call.

        Args:
            trial: over or not.
            scores: what it reached, by round.
        """

    def sample(self, number: int) -> dict[str, Any]:
        """Return the configuration of a new trial."""
        ...

    def report(self, number: int, round: int, score: float) -> None:
        """Learn what a trial reached after a round."""

    def tell(self, number: int, status: str, score: float | None) -> None:
        """Learn that a trial is over: completed, stopped or failed."""


class _Independent:
    """Configurations that depend on nothing but their number."""

    def __init__(self, of_number: Callable[[int], dict[str, Any]]) -> None:
        self.sample = of_number

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """See `Sampler.recall`."""

    def report(self, number: int, round: int, score: float) -> None:
        """See `Sampler.report`."""

    def tell(self, number: int, status: str, score: float | None) -> None:
        """See `Sampler.tell`."""


class _Optuna:
    """Optuna's tree-structured Parzen estimator. An Optuna trial has the number of ours."""

    def __init__(self, space: Space) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._seed = space.resolve().seed
        self._searched = OptunaSpace(space.domains)
        self._study = optuna.create_study(direction="maximize", study_name="graftpop")
        self._running: dict[int, optuna.Trial] = {}

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """See `Sampler.recall`."""
        self._study.enqueue_trial(self._searched.params(trial.sample))
        self._running[trial.number] = self._study.ask(self._searched.distributions)
        for round, score in sorted(scores.items()):
            self.report(trial.number, round, score)
        if trial.is_final:
            self.tell(trial.number, trial.status, trial.result.get("val_accuracy"))

    def sample(self, number: int) -> dict[str, Any]:
        """See `Sampler.sample`."""
        from optuna.samplers import TPESampler

        # constant_liar: trials that run side by side are not all sent to the same place
        self._study.sampler = TPESampler(seed=derive(self._seed, "sample", number) % 2**32, constant_liar=True)
        trial = self._study.ask(self._searched.distributions)
        if trial.number != number:
            raise RuntimeError(f"optuna's trial {trial.number} cannot stand for trial {number}")
        self._running[number] = trial
        return self._searched.sample(trial.params)

    def report(self, number: int, round: int, score: float) -> None:
        """See `Sampler.report`."""
        self._running[number].report(score, round)

    def tell(self, number: int, status: str, score: float | None) -> None:
        """See `Sampler.tell`. Of a stopped trial Optuna counts how far it came."""
        from optuna.trial import TrialState

        trial = self._running.pop(number)
        if status == "completed" and score is not None:
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=TrialState.PRUNED if status == "stopped" else TrialState.FAIL)


def _grid(space: Space) -> Sampler:
    values: Sequence[Sequence[Any]] = [domain.every_value() for domain in space.domains.values()]
    product = [dict(zip(space.domains, sample, strict=True)) for sample in itertools.product(*values)]
    return _Independent(product.__getitem__)


def _random(space: Space) -> Sampler:
    seed = space.resolve().seed
    return _Independent(lambda number: space.sample(random.Random(derive(seed, "sample", number))))


def make_sampler(space: Space) -> Sampler:
    """Return what gives the trials of a study their configurations."""
    return _SAMPLERS[space.resolve().tune.search](space)


_SAMPLERS: Final[Mapping[str, Callable[[Space], Sampler]]] = {"optuna": _Optuna, "random": _random, "grid": _grid}
