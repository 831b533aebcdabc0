"""The base class of all sections, and the types of values that several of them use."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from graftpop.user_code import PYTHON

__all__ = [
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


@dataclass(frozen=True)
class OnlyWith:
    """Metadata of a key that matters only while another key has one of some values.

    Attributes:
        key: dotted key.
        values: its values; PYTHON among them stands for every name of user code.
    """

    key: str
    values: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        """Return whether the other key has one of the values."""
        is_user_code = isinstance(value, str) and value.startswith(PYTHON)
        return (PYTHON if is_user_code else value) in self.values


class Section(BaseModel):
    """One section of the settings: frozen, without unknown keys or implicit conversion (`"3"` is not 3).

    The docstring of a key gives its meaning and unit, and explains null, auto and every choice. It omits range and
    default: the schema and the reference derive them from the field (`graftpop.space.json_schema`), and the keys that
    it needs from `OnlyWith`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class ExchangeSection(Section):
    """The section of an exchange rule; a population has at most one rule.

    Attributes:
        rule: MODULE.CLASS of the rule, a subclass of `graftpop.exchange.rule.ExchangeRule`.
        topology: the topology of `population.topology: auto`.
    """

    rule: ClassVar[str]
    topology: ClassVar[str] = "ring"
