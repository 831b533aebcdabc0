"""Search domains: one-key maps such as `{uniform: [0.0, 1.0]}` in place of a value.

A domain knows its extreme values, so that every value it may yield is validated before a study starts.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from graftpop.errors import SpaceError
from graftpop.settings.section import OnlyWith

__all__ = ["DOMAINS", "Domain", "is_domain", "number_hint", "read_domain"]


@dataclass(frozen=True)
class Domain:
    """The values that a searched key may take.

    Attributes:
        kind: a key of `DOMAINS`.
        values: the choices of `choice` and `grid`; (low, high) of the others, (low, high, step) of `quniform`.
        only_with: the choices of a section in which the key is searched; None if it is searched in all trials.
    """

    kind: str
    values: tuple[Any, ...]
    only_with: OnlyWith | None = None

    @property
    def is_finite(self) -> bool:
        """Whether `every_value` can list all values."""
        return self.kind in ("choice", "grid", "randint")

    @property
    def boundary_values(self) -> tuple[Any, ...]:
        """The values to validate: every choice; low and high of `randint`; else low, high and a value between."""
        if self.kind in ("choice", "grid", "randint"):
            return self.values
        low, high, *step = self.values
        inside = min(low + float(step[0]), float(high)) if step else low + (high - low) / math.e  # no whole number
        return (low, high, inside)

    def every_value(self) -> Sequence[Any]:
        """Return all values of a finite domain."""
        return range(self.values[0], self.values[1] + 1) if self.kind == "randint" else self.values

    @property
    def num_values(self) -> int:
        """Number of values of a finite domain."""
        return self.values[1] - self.values[0] + 1 if self.kind == "randint" else len(self.values)

    def sample(self, rng: random.Random) -> Any:
        """Return one value drawn at random."""
        if self.kind == "randint":
            return rng.randint(*self.values)
        if self.is_finite:
            return rng.choice(self.values)
        low, high, *step = self.values
        if self.kind == "loguniform":
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        elif self.kind == "quniform":
            value = low + step[0] * rng.randint(0, round((high - low) / step[0]))
        else:
            value = rng.uniform(low, high)
        return self.clip(value)  # rounding can lead out of the range

    def clip(self, value: Any) -> Any:
        """Return the value of the domain nearest to a number; a choice is returned unchanged."""
        if self.kind in ("choice", "grid"):
            return value
        low, high, *step = self.values
        if step:
            value = low + step[0] * round((value - low) / step[0])
        value = min(max(value, low), high)
        return round(value) if self.kind == "randint" else value

    def contains(self, value: Any) -> bool:
        """Return whether `sample` may return a value."""
        if self.kind == "randint":
            return type(value) is int and self.values[0] <= value <= self.values[1]
        if self.is_finite:
            return repr(value) in map(repr, self.values)
        return _is_number(value) and math.isclose(self.clip(value), value, rel_tol=1e-9)

    def __str__(self) -> str:
        """Return the domain as YAML on one line."""
        return f"{{{self.kind}: [{', '.join(str(value) for value in self.values)}]}}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_values(values: list[Any]) -> str | None:
    wholes = (int(value) if isinstance(value, float) and value.is_integer() else value for value in values)  # 1.0 is 1
    if len(set(map(repr, wholes))) < len(values):
        return "values must differ from each other"
    return None if values else "needs at least one value"


def _check_range(values: list[Any]) -> str | None:
    if len(values) != 2 or not all(map(_is_number, values)):
        return "needs two numbers [low, high]"
    return None if values[0] < values[1] else "low must be below high"


def _check_log_range(values: list[Any]) -> str | None:
    return _check_range(values) or (None if values[0] > 0 else "low must be above 0")


def _check_stepped_range(values: list[Any]) -> str | None:
    if len(values) != 3 or not all(map(_is_number, values)):
        return "needs three numbers [low, high, step]"
    low, high, step = values
    # high - low may be below step by rounding: 0.3 - 0.2 < 0.1
    if not (step > 0 and round(high / step) > round(low / step)):
        return "step must be above 0 and at most high - low"
    if not all(math.isclose(bound / values[2], round(bound / values[2])) for bound in values[:2]):
        return "low and high must be multiples of step"  # Tune and Optuna support no other steps
    return None


def _check_integer_range(values: list[Any]) -> str | None:
    if len(values) != 2 or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "needs two whole numbers [low, high], both included"
    return None if values[0] < values[1] else "low must be below high"


class Kind(NamedTuple):
    """One kind of domain.

    Attributes:
        meaning: one sentence for the documentation.
        check: function from the values to the rule that they break, or None.
        num_values: number of values; None: one or more, all different.
    """

    meaning: str
    check: Callable[[list[Any]], str | None]
    num_values: int | None = None


DOMAINS: Final[Mapping[str, Kind]] = {
    "choice": Kind("One of the values.", _check_values),
    "uniform": Kind("[low, high]: a number between low and high.", _check_range, 2),
    "loguniform": Kind("[low, high]: a number between low and high, uniform in its logarithm.", _check_log_range, 2),
    "quniform": Kind(
        "[low, high, step]: low, low + step, ..., high; low and high are multiples of step.", _check_stepped_range, 3
    ),
    "randint": Kind("[low, high]: a whole number, both included.", _check_integer_range, 2),  # Ray excludes high
    "grid": Kind("Each of the values, with tune.sampler: grid.", _check_values),
}


def is_domain(node: Any) -> bool:
    """Return whether a node of a YAML file is a domain: a map whose only key is a kind of domain."""
    return isinstance(node, dict) and len(node) == 1 and next(iter(node)) in DOMAINS


def read_domain(node: Mapping[str, Any], where: str) -> Domain:
    """Return the domain that a node describes.

    Args:
        node: a map for which `is_domain` holds.
        where: start of error messages.

    Raises:
        SpaceError: the values do not fit the kind.
    """
    ((kind, values),) = node.items()
    if not isinstance(values, list):
        raise SpaceError(f"{where}: {kind} needs a list of values, got {values!r}")
    if reason := DOMAINS[kind].check(values):
        hints = filter(None, (number_hint(value) for value in values if isinstance(value, str)))
        raise SpaceError(f"{where}: {kind} {reason}, got {values}{next(hints, '')}")
    return Domain(kind, tuple(values))


def number_hint(text: str) -> str:
    """Return a hint such as "; '0.1' is text in YAML, write 0.1"; empty if the text spells no number."""
    try:
        number = float(text)
    except ValueError:
        return ""
    written = str(int(text)) if text.isdecimal() else repr(number)
    return f"; '{text}' is text in YAML, write {written}"
