"""The base class of all sections, and the types of values that several of them use."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = [
    "Arguments",
    "Auto",
    "Count",
    "ExchangeSection",
    "Name",
    "NotNegative",
    "OnlyWith",
    "Percent",
    "Positive",
    "Rate",
    "Section",
    "Seed",
    "Share",
    "SiteChoice",
    "UserPart",
]

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
SiteChoice = Literal["auto", "conv_bn", "all"]
Count = Annotated[int, Field(ge=1)]
UserPart = Annotated[str, Field(pattern=r"^python:.+\..+$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

MAX_ARGUMENTS: Final = 64  # of a network, and items of a list among them
MAX_TEXT: Final = 256  # characters
MAX_NUMBER: Final = 2**31
MAX_LISTS: Final = 2  # lists inside each other


def _identifier(name: str) -> str:
    if not (name.isidentifier() and len(name) <= MAX_TEXT):
        raise PydanticCustomError("identifier", "an argument's name")
    return name


def _plain(value: Any) -> Any:
    if not (value is None or _is_plain(value)):
        raise PydanticCustomError("plain", "a number, true, false, text, or a short list of them")
    return value


def _is_plain(value: Any, num_lists: int = 0) -> bool:
    if isinstance(value, list):
        return (
            num_lists < MAX_LISTS
            and len(value) <= MAX_ARGUMENTS
            and all(_is_plain(item, num_lists + 1) for item in value)
        )
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value.isprintable()
    return isinstance(value, int | float) and abs(value) <= MAX_NUMBER  # False for nan


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


Argument = Annotated[
    Any,
    AfterValidator(_plain),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("number", "boolean", "string", "array", "null")]}),
]
Arguments = Annotated[
    dict[Annotated[str, AfterValidator(_identifier)], Argument], Field(max_length=MAX_ARGUMENTS), AfterValidator(_given)
]
"""Keyword arguments of a network's builder, which a file may also hold; null leaves an argument out."""


@dataclass(frozen=True)
class OnlyWith:
    """Metadata of a key that matters only while another key has one of some values.

    Attributes:
        key: dotted key.
        values: its values; a prefix such as `python:` stands for every name that begins with it.
    """

    key: str
    values: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        """Return whether the other key has one of the values."""
        prefix, colon, _ = value.partition(":") if isinstance(value, str) else ("", "", "")
        return (f"{prefix}:" if colon else value) in self.values


class Section(BaseModel):
    """One section of the settings: frozen, without unknown keys or implicit conversion (`"3"` is not 3).

    The docstring of a key gives its meaning and unit, and explains null, auto and every choice. It omits range and
    default: the schema and the reference derive them from the field (`tests/support/generators/`), and the keys that it
    needs from `OnlyWith`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class ExchangeSection(Section):
    """The section of an exchange rule; a population has at most one rule.

    Attributes:
        rule: MODULE.CLASS of the rule, a subclass of `graftpop.exchange.rule.ExchangeRule`.
        topology: the topology of `population.topology: auto`.
        initialization: the initialization of `population.initialization: auto`.
    """

    rule: ClassVar[str]
    topology: ClassVar[str] = "ring"
    initialization: ClassVar[Literal["own", "same"]] = "own"
