"""User-defined data sets that a space names: a function that returns torch data sets."""

from typing import Any

from graftpop.data.images import Splits
from graftpop.data.torch_dataset import dataset_splits
from graftpop.errors import DataError, GraftpopError, describe_exception
from graftpop.settings import AugmentationSettings, DataSettings
from graftpop.user_code import import_user_code

__all__ = ["user_splits"]

REFUSED = ("label", "camera", "image_size", "max_train_images")
"""Keys that have no effect: the function returns the items as they are."""


def user_splits(
    data: DataSettings, *, seed: int, num_workers: int, has_labels: bool, augmentation: AugmentationSettings
) -> Splits:
    """Return the splits of `data.name: python:MODULE.FUNCTION`.

    The function takes no arguments, or `data.root` if that is set. It returns (train, test) or (train, val, test), map
    style data sets of (input, target). Class names are the attribute `classes` of `train`, if there are classes.

    Args:
        data: name, root and share of the validation split.
        seed: fixes the validation split.
        num_workers: processes that read; 0 reads in this process.
        has_labels: whether targets must be the labels of classes.
        augmentation: erasing and mixing of the training images.

    Raises:
        DataError: the function cannot be imported, fails, or returns something else.
    """
    where = f"data.name: {data.name}"
    for key in REFUSED:
        if (value := getattr(data, key)) is not None:
            raise DataError(f"data.{key}: has no effect on {data.name}, got {value}; apply it in the function")
    make = import_user_code(data.name, "data.name", DataError)
    try:
        parts: Any = make() if data.root is None else make(data.root)
    except GraftpopError:
        raise
    except Exception as error:  # user code may raise anything
        raise DataError(f"{where} failed: {describe_exception(error)}; fix it") from error
    if not isinstance(parts, tuple | list) or len(parts) not in (2, 3) or not all(map(_is_map_style, parts)):
        got = tuple(type(part).__name__ for part in parts) if isinstance(parts, tuple | list) else type(parts).__name__
        raise DataError(
            f"{where} must return (train, test) or (train, val, test), torch data sets with a length, got {got}; fix it"
        )
    train, *val, test = parts
    return dataset_splits(
        train,
        val[0] if val else None,
        test,
        classes=list(map(str, getattr(train, "classes", ()))),
        val_fraction=data.val_fraction,
        seed=seed,
        num_workers=num_workers,
        has_labels=has_labels,
        augmentation=augmentation,
    )


def _is_map_style(part: Any) -> bool:
    return hasattr(part, "__getitem__") and hasattr(part, "__len__")
