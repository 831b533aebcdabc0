"""Model cards: the values that rebuild a network and prepare its input."""

import json
import math
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, ValidationError

from graftpop.data.input_shape import InputShape
from graftpop.settings.section import Arguments, Count, Section

__all__ = ["MAX_CARD_BYTES", "ModelCard", "read_card"]

MAX_CARD_BYTES: Final = 2**24  # names of 65,536 classes
MAX_CLASSES: Final = 2**16
MAX_AXES: Final = 8
MAX_IMAGE_VALUES: Final = 3 * 2**25  # the pixel limit of images


def _bounded(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_IMAGE_VALUES:
        raise ValueError
    return shape


FROM_LIST = Field(strict=False)  # JSON has no tuples; their items stay strict
Number = Annotated[float, Field(gt=-1e30, lt=1e30)]  # fits into float32
Above0 = Annotated[float, Field(gt=0, lt=1e30)]


class ModelCard(Section):
    """The values that rebuild a network and prepare its input; unknown values are kept, too.

    Each field's `description` is its rule, used in messages.
    """

    model_config = ConfigDict(extra="allow")

    model: str = Field(pattern=r"^[^\p{C}\p{Z}]*$", description="a name")  # printable, without blanks
    num_classes: Count = Field(le=MAX_CLASSES, description=f"in [1, {MAX_CLASSES}]")
    args: Arguments = Field(default={}, description="a map of names to numbers, true, false, text and lists of them")
    # InstanceOf takes any folder's name, str only Unicode
    class_names: Annotated[tuple[InstanceOf[str], ...], FROM_LIST] = Field(default=(), description="a list of names")
    image_shape: Annotated[tuple[Count, ...], FROM_LIST, AfterValidator(_bounded)] = Field(
        min_length=1,
        max_length=MAX_AXES,
        description=f"the shape of one input, [channels, height, width] for images, at most {MAX_IMAGE_VALUES} in all",
    )
    input_dtype: Literal["float32", "int64"] = Field(default="float32", description="float32 or int64")
    task: str = Field(default="classification", pattern=r"^[^\p{C}\p{Z}]*$", description="a name")
    classifier: str | None = Field(default=None, pattern=r"^[^\p{C}\p{Z}]+$", description="the name of a Linear layer")
    distance: Literal["euclidean", "cosine"] | None = Field(default=None, description="euclidean or cosine")
    mean: Annotated[tuple[Number, Number, Number], FROM_LIST] = Field(description="three numbers")
    std: Annotated[tuple[Above0, Above0, Above0], FROM_LIST] = Field(description="three numbers above 0")
    ensemble: Count | None = Field(default=None, description="a number of networks")
    removed_filters: Annotated[int, Field(ge=0)] | None = Field(default=None, description="a number of filters")

    @property
    def input_shape(self) -> InputShape:
        """The shape of one input, with its dtype."""
        return InputShape(self.image_shape, torch.int64 if self.input_dtype == "int64" else torch.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the given values by name, for JSON; defaults are omitted."""
        return self.model_dump(exclude_unset=True)


def read_card(text: str | bytes) -> ModelCard:
    """Return the model card in a JSON text.

    Raises:
        ValueError: invalid JSON, or a value is absent, of the wrong type or out of range.
    """
    if len(text) > MAX_CARD_BYTES:
        raise ValueError(f"a card must have at most {MAX_CARD_BYTES} bytes, got more")
    try:
        card = json.loads(text)
    except RecursionError as error:
        raise ValueError("a card is nested too deep") from error
    if not isinstance(card, dict):
        raise ValueError(f"a card must be a map, got {type(card).__name__}")
    try:
        return ModelCard.model_validate(card)
    except ValidationError as error:
        invalid = [str(problem["loc"][0]) for problem in error.errors()]
    if absent := set(invalid).difference(card):
        raise ValueError(f"config.json lacks {', '.join(sorted(absent))}")
    key = invalid[0]
    raise ValueError(f"{key} must be {ModelCard.model_fields[key].description}, got {card[key]!r}")
