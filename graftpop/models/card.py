"""Model cards: the values needed to rebuild a network and to prepare its input."""

import json
import math
from typing import Any, Final

__all__ = ["MAX_CARD_BYTES", "read_card"]

MAX_CARD_BYTES: Final = 2**24  # names of 65,536 classes
MAX_CLASSES: Final = 2**16
MAX_IMAGE_VALUES: Final = 3 * 2**25  # the pixel limit of images


def read_card(text: str | bytes) -> dict[str, Any]:
    """Return a checked model card: the values needed to rebuild a network and to prepare its input.

    Args:
        text: JSON map with `model`, `num_classes`, `image_shape`, `mean`, `std` and more.

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
    if absent := {"model", "num_classes", "image_shape", "mean", "std"}.difference(card):
        raise ValueError(f"config.json lacks {', '.join(sorted(absent))}")
    shape, moments = card["image_shape"], [card["mean"], card["std"]]
    if not (isinstance(card["model"], str) and card["model"].isprintable()):
        raise ValueError(f"model must be a name, got {card['model']!r}")
    if not _is_count(card["num_classes"]) or card["num_classes"] > MAX_CLASSES:
        raise ValueError(f"num_classes must be in [1, {MAX_CLASSES}], got {card['num_classes']!r}")
    if not _is_count(card.get("ensemble", 1)):
        raise ValueError(f"ensemble must be a number of networks, got {card['ensemble']!r}")
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(map(_is_count, shape))
        and math.prod(shape) <= MAX_IMAGE_VALUES
    ):
        raise ValueError(
            f"image_shape must be [channels, height, width], at most {MAX_IMAGE_VALUES} in all, got {shape!r}"
        )
    if not all(isinstance(values, list) and len(values) == 3 and all(map(_is_finite, values)) for values in moments):
        raise ValueError(f"mean and std must be three numbers each, got {moments[0]!r} and {moments[1]!r}")
    if min(card["std"]) <= 0:
        raise ValueError(f"std must be above 0, got {card['std']!r}")
    return card


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # fits into float32
