"""The searched keys as Optuna's distributions, and samples as Optuna's parameters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graftpop.space import Domain

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["OptunaSpace"]


class OptunaSpace:
    """Translates between a space's samples and Optuna's parameters, which are plain values.

    Args:
        domains: domains by dotted key; the keys are the names of Optuna's parameters.

    Attributes:
        distributions: Optuna's distributions, by dotted key.
    """

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self._kinds = {key: domain.kind for key, domain in domains.items()}
        self._choices = {key: _named(domain) for key, domain in domains.items() if domain.kind in ("choice", "grid")}
        self.distributions = {key: self._distribution(key, domain) for key, domain in domains.items()}

    def _distribution(self, key: str, domain: Domain) -> Any:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if key in self._choices:
            return CategoricalDistribution(list(self._choices[key]))
        if domain.kind == "randint":
            return IntDistribution(*domain.values)
        low, high, *step = map(float, domain.values)
        return FloatDistribution(low, high, log=domain.kind == "loguniform", step=step[0] if step else None)

    def params(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample as Optuna's parameters."""
        name_of = {
            key: {repr(value): name for name, value in choices.items()} for key, choices in self._choices.items()
        }
        return {key: name_of[key][repr(value)] if key in name_of else value for key, value in sample.items()}

    def suggested(self, trial: "Trial", key: str) -> Any:
        """Return the value of a key, suggested by one of Optuna's trials."""
        kind = self.distributions[key]
        if key in self._choices:
            return self._choices[key][trial.suggest_categorical(key, kind.choices)]
        suggest = trial.suggest_int if self._kinds[key] == "randint" else trial.suggest_float
        return suggest(key, kind.low, kind.high, step=kind.step, log=kind.log)

    def sample(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sample of Optuna's parameters, the inverse of `params`."""
        return {key: self._choices[key][value] if key in self._choices else value for key, value in params.items()}


def _named(domain: Domain) -> dict[Any, Any]:
    """Return the choices by their value in Optuna: a plain value is itself, any other is its text."""
    return {
        value if isinstance(value, None | bool | int | float | str) else str(value): value for value in domain.values
    }
