"""An Optuna sampler over all searched keys, for samplers that need the same keys in every trial."""

import random
from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from graftpop.space import Space
from graftpop.study.optuna_space import OptunaSpace

__all__ = ["AllKeys"]


class AllKeys(BaseSampler):
    """Samples every key in every trial; a key that cannot matter gets a random value.

    With one value for all trials, a Gaussian process sees them as one point, which it may choose again and again. The
    random values are a function of the generator alone, so a resumed study has the same.

    Args:
        inner: chooses the values; where it chooses none, its independent samples are used.
        space: the study's space.
        searched: its searched keys in Optuna's terms.
        given: values of the trial that are not sampled.
        rng: the trial's generator of the random values.
    """

    def __init__(
        self, inner: BaseSampler, space: Space, searched: OptunaSpace, given: Mapping[str, Any], rng: random.Random
    ) -> None:
        self._inner, self._space, self._searched, self._given = inner, space, searched, given
        self._unused = {key: domain.sample(rng) for key, domain in space.domains.items()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions of all keys that have more than one value."""
        return {key: choice for key, choice in self._searched.distributions.items() if not choice.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the value of each key."""
        params = self._inner.sample_relative(study, trial, search_space) or {
            key: self._inner.sample_independent(study, trial, key, choice) for key, choice in search_space.items()
        }
        sample = {**self._unused, **self._searched.sample(params), **self._given}
        values = self._searched.params({**self._unused, **self._space.active(sample)})
        return {key: values[key] for key in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value by the inner sampler."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)
