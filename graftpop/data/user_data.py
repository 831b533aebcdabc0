"""User-defined data sets that a space names: a function that returns data sets of torch or Hugging Face."""

from collections.abc import Mapping
from typing import Any

from graftpop.data.huggingface import has_images, hub_parts
from graftpop.errors import DataError, GraftpopError, describe_exception
from graftpop.settings import DataSettings
from graftpop.user_code import import_user_code

__all__ = ["user_datasets"]

REFUSED = ("label", "camera", "image_size", "max_train_images", "on_damage", "crop_padding", "flip")
"""Keys that have no effect: the function returns the items as they are."""


def user_datasets(data: DataSettings) -> tuple[Any, Any, Any]:
    """Return training, validation (or None) and test data of `data.name: python:MODULE.FUNCTION`.

    The function takes no arguments, or `data.root` if that is set. It returns (train, test) or (train, val, test):
    map-style data sets of (input, target), or data of Hugging Face, see `hub_parts`.

    Args:
        data: name and root.

    Raises:
        DataError: the function cannot be imported, fails, or returns something else; or a key has no effect.
    """
    where = f"data.name: {data.name}"
    make = import_user_code(data.name, "data.name", DataError)
    try:
        parts: Any = make() if data.root is None else make(data.root)
    except GraftpopError:
        raise
    except Exception as error:  # user code may raise anything
        raise DataError(f"{where} failed: {describe_exception(error)}; fix it") from error
    if isinstance(parts, Mapping):
        parts = (parts, None, None)
    elif not isinstance(parts, tuple | list) or len(parts) not in (2, 3) or not all(map(_is_map_style, parts)):
        got = tuple(type(part).__name__ for part in parts) if isinstance(parts, tuple | list) else type(parts).__name__
        raise DataError(
            f"{where} must return (train, test) or (train, val, test), torch data sets with a length, got {got}; fix it"
        )
    train, *val, test = parts
    train, val, test = hub_parts(train, val[0] if val else None, test)
    for key in REFUSED:
        of_files = key in ("camera", "on_damage")
        if (value := getattr(data, key)) != DataSettings.model_fields[key].default and (
            of_files or not has_images(train)
        ):
            raise DataError(f"data.{key}: has no effect on {data.name}, got {value}; apply it in the function")
    return train, val, test


def _is_map_style(part: Any) -> bool:
    return hasattr(part, "__getitem__") and hasattr(part, "__len__")
