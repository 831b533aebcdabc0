"""Samplers choose the sample of each trial: a point to try first, then a grid's, a random or Optuna's point.

A sample depends on the seed, the trial's number and, for Optuna's tpe and gp, on the results so far. So only the trials
themselves are stored: a resumed study replays them to a new sampler.
"""

import random
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from graftpop.seeds import derive
from graftpop.space import Space
from graftpop.study.optuna_space import OptunaSpace
from graftpop.study.trials import Trial, objective_values

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["LEARNING", "Sampler", "make_sampler"]

LEARNING: Final = ("tpe", "gp")
"""Samplers whose choices depend on earlier results; the others know all samples in advance."""

MOST_RANDOM_TRIALS: Final = 10
"""Random trials of a long study before tpe and gp decide; in a short study they decide half of the trials."""


class Sampler(Protocol):
    """Chooses the sample of each trial."""

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """Replay a trial of an earlier session; call it for all of them, in order of number, before any other method.

        Args:
            trial: the trial, in any status.
            scores: its validation score, the task's primary metric, by round.
        """

    def sample(self, number: int) -> dict[str, Any]:
        """Return the searched keys and values of a new trial, by its number from 0; without keys that cannot matter."""
        ...

    def report(self, number: int, round: int, score: float) -> None:
        """Record the validation score of a trial after a round."""

    def tell(self, number: int, status: str, figures: Mapping[str, Any]) -> None:
        """Record the end of a trial.

        Args:
            number: number of the trial.
            status: completed, stopped or failed.
            figures: the last report of the trial; empty if it completed no round.
        """


class _Independent:
    """Samples that depend on the trial's number only."""

    def __init__(self, of_number: Callable[[int], dict[str, Any]]) -> None:
        self.sample = of_number

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """See `Sampler.recall`."""

    def report(self, number: int, round: int, score: float) -> None:
        """See `Sampler.report`."""

    def tell(self, number: int, status: str, figures: Mapping[str, Any]) -> None:
        """See `Sampler.tell`."""


class _Optuna:
    """One of Optuna's samplers; Optuna numbers the trials as we do.

    Args:
        space: the study's space.
        make: returns Optuna's sampler of a trial, given a seed and whether to draw at random.
        same_keys: whether the sampler needs the same keys in all trials, see `AllKeys`.
    """

    def __init__(self, space: Space, make: "Callable[[int, bool], BaseSampler]", *, same_keys: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._make, self._same_keys = space, make, same_keys
        self._seed, self._objectives = space.resolve().seed, space.resolve().objectives
        self._num_random = min(MOST_RANDOM_TRIALS, space.num_trials() // 2)
        self._searched = OptunaSpace(space.domains)
        self._study = optuna.create_study(
            directions=["maximize" if mode == "max" else "minimize" for mode in self._objectives.values()],
            study_name="graftpop",
        )
        self._running: dict[int, optuna.Trial] = {}
        self._reported: dict[int, int] = {}  # the last round, by trial

    def recall(self, trial: Trial, scores: Mapping[int, float]) -> None:
        """See `Sampler.recall`."""
        self._ask(trial.number, self._space.active(trial.sample), is_random=True)
        for round, score in sorted(scores.items()):
            self.report(trial.number, round, score)
        if trial.is_final:
            self.tell(trial.number, trial.status, trial.result)

    def sample(self, number: int) -> dict[str, Any]:
        """See `Sampler.sample`."""
        given = self._space.first[number] if number < len(self._space.first) else {}
        return self._ask(number, given, is_random=number < self._num_random)

    def _ask(self, number: int, given: Mapping[str, Any], *, is_random: bool) -> dict[str, Any]:
        """Return the sample of a new trial, in which some values are given."""
        sampler = self._make(derive(self._seed, "sample", number) % 2**32, is_random)
        if self._same_keys:
            from graftpop.study.all_keys import AllKeys

            rng = random.Random(derive(self._seed, "unused", number))
            sampler = AllKeys(sampler, self._space, self._searched, given, rng)
        self._study.sampler = sampler
        if given:
            self._study.enqueue_trial(self._searched.params(given))
        trial = self._running[number] = self._study.ask(self._searched.distributions if self._same_keys else {})
        if trial.number != number:
            raise RuntimeError(f"optuna: must sample trial {number} next, got number {trial.number}")
        _ = trial.relative_params  # qmc counts the trials that ask for them, even if all values are given
        sample: dict[str, Any] = {}
        for key in self._space.domains:
            if self._space.is_active(key, sample):
                sample[key] = self._searched.suggested(trial, key)
        return sample

    def report(self, number: int, round: int, score: float) -> None:
        """See `Sampler.report`."""
        is_new = round > self._reported.get(number, 0)  # a trial that lost its processes repeats rounds
        if is_new and len(self._objectives) == 1:  # Optuna prunes by one objective only
            self._running[number].report(score, round)
            self._reported[number] = round

    def tell(self, number: int, status: str, figures: Mapping[str, Any]) -> None:
        """See `Sampler.tell`; Optuna uses the reported scores of a stopped trial."""
        from optuna.trial import TrialState

        trial, values = self._running.pop(number), objective_values(figures, self._objectives)
        if status == "completed" and values is not None:
            self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=TrialState.PRUNED if status == "stopped" else TrialState.FAIL)


def _tpe(space: Space) -> Sampler:
    """Model the keys that matter together as one group; each trial has its own keys."""
    from optuna.samplers import RandomSampler, TPESampler

    def make(seed: int, is_random: bool) -> "BaseSampler":
        if is_random:
            return RandomSampler(seed)
        # constant_liar keeps trials that run side by side apart
        return _experimental(
            lambda: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=0)
        )

    return _Optuna(space, make, same_keys=False)


def _gp(space: Space) -> Sampler:
    from optuna.samplers import GPSampler, RandomSampler

    def make(seed: int, is_random: bool) -> "BaseSampler":
        return RandomSampler(seed) if is_random else _experimental(lambda: GPSampler(seed=seed, n_startup_trials=1))

    return _Optuna(space, make, same_keys=True)


def _qmc(space: Space) -> Sampler:
    from optuna.samplers import QMCSampler

    seed = derive(space.resolve().seed, "sample") % 2**32
    sampler = _experimental(lambda: QMCSampler(seed=seed, scramble=True))
    return _Optuna(space, lambda seed, is_random: sampler, same_keys=True)


def _experimental(make: "Callable[[], BaseSampler]") -> "BaseSampler":
    """Return one of Optuna's samplers without the warning that it, or an option of it, is experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make()


def _random(space: Space) -> Sampler:
    seed = space.resolve().seed

    def sample(number: int) -> dict[str, Any]:
        given = space.first[number] if number < len(space.first) else {}
        return space.sample(random.Random(derive(seed, "sample", number)), given)

    return _Independent(sample)


def _grid(space: Space) -> Sampler:
    return _Independent(lambda number: dict(space.grid[number]))


def make_sampler(space: Space) -> Sampler:
    """Return the sampler that `tune.sampler` names."""
    return _SAMPLERS[space.resolve().tune.sampler](space)


_SAMPLERS: Final[Mapping[str, Callable[[Space], Sampler]]] = {
    "tpe": _tpe,
    "gp": _gp,
    "qmc": _qmc,
    "random": _random,
    "grid": _grid,
}
