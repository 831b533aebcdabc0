"""Samplers choose the sample of each trial: the n-th point of a grid, the n-th draw, or Optuna's suggestion.

A sample depends on the seed, the trial's number and, for Optuna, on the results so far. So only the trials themselves
are stored: a resumed study replays them to a new sampler.
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
    """Chooses the sample of each trial."""

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """Replay a trial of an earlier session; call it for all of them, in order of number, before any other method.

        Args:
            trial: the trial, in any status.
            scores: its validation accuracy by round.
        """

    def sample(self, number: int) -> dict[str, Any]:
        """Return the searched keys and values of a new trial, by its number from 0."""
        ...

    def report(self, number: int, round: int, score: float) -> None:
        """Record the validation accuracy of a trial after a round."""

    def tell(self, number: int, status: str, score: float | None) -> None:
        """Record the end of a trial.

        Args:
            number: number of the trial.
            status: completed, stopped or failed.
            score: its last validation accuracy; None if it completed no round.
        """


class _Independent:
    """Samples that depend on the trial's number only."""

    def __init__(self, of_number: Callable[[int], dict[str, Any]]) -> None:
        self.sample = of_number

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """See `Sampler.recall`."""

    def report(self, number: int, round: int, score: float) -> None:
        """See `Sampler.report`."""

    def tell(self, number: int, status: str, score: float | None) -> None:
        """See `Sampler.tell`."""


class _Optuna:
    """Optuna's tree-structured Parzen estimator; Optuna numbers the trials as we do."""

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

        # constant_liar: keeps trials that run side by side apart
        self._study.sampler = TPESampler(seed=derive(self._seed, "sample", number) % 2**32, constant_liar=True)
        trial = self._study.ask(self._searched.distributions)
        if trial.number != number:
            raise RuntimeError(f"optuna: must sample trial {number} next, got number {trial.number}")
        self._running[number] = trial
        return self._searched.sample(trial.params)

    def report(self, number: int, round: int, score: float) -> None:
        """See `Sampler.report`."""
        self._running[number].report(score, round)

    def tell(self, number: int, status: str, score: float | None) -> None:
        """See `Sampler.tell`; Optuna uses the reported scores of a stopped trial."""
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
    """Return the sampler of `tune.search`."""
    return _SAMPLERS[space.resolve().tune.search](space)


_SAMPLERS: Final[Mapping[str, Callable[[Space], Sampler]]] = {"optuna": _Optuna, "random": _random, "grid": _grid}
