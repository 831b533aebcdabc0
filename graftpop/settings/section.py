"""What all sections are, and the kinds of values that several have."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Auto", "Count", "NotNegative", "Positive", "Rate", "Section", "Share"]

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the settings: frozen, no unknown keys, no silent conversion (`"3"` is not 3).

    The text under a key says what it means, what null and auto stand for, and names all choices. Its range and its
    default are not told in it: they are worked out of the settings wherever it is shown (`graftpop.space.json_schema`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
