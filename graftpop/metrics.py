"""Metrics of tasks: their names, directions and columns."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["ACCURACY", "Metric", "Mode", "is_share", "label_of", "text_of_metric"]

Mode = Literal["max", "min"]

SPLITS: Final = r"(?:mean_val|ensemble_test|val|test|train)"


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Attributes:
        name: name in columns: `accuracy` has `val_accuracy`, `test_accuracy` and `ensemble_test_accuracy`.
        mode: max if higher is better, min if lower is better.
    """

    name: str
    mode: Mode = "max"

    @property
    def label(self) -> str:
        """Name in texts: `accuracy`, `mAP`, `rank-1`."""
        return label_of(self.name)

    @property
    def title(self) -> str:
        """Name at the start of a sentence: `Accuracy`, `mAP`."""
        return self.label if self.label != self.label.lower() else self.label.capitalize()

    @property
    def direction(self) -> str:
        """`, lower is better` for a metric to minimize, otherwise empty."""
        return ", lower is better" * (self.mode == "min")

    @property
    def val(self) -> str:
        """Column of its value on the validation split."""
        return f"val_{self.name}"

    @property
    def test(self) -> str:
        """Column of its value on the test split."""
        return f"test_{self.name}"

    @property
    def ensemble(self) -> str:
        """Column of the value of all peers' combined predictions on the test split."""
        return f"ensemble_test_{self.name}"

    @property
    def mean(self) -> str:
        """Column of its mean over the peers on the validation split."""
        return f"mean_val_{self.name}"

    @property
    def is_share(self) -> bool:
        """Whether its values lie in [0, 1] and are shown in percent."""
        return is_share(self.val)

    @property
    def worst(self) -> float:
        """A value that any other value is better than."""
        return -math.inf if self.mode == "max" else math.inf

    def merit(self, value: float) -> float:
        """Return the value, or its negative if lower is better: a higher merit is always better."""
        return value if self.mode == "max" else -value

    def text(self, value: object) -> str:
        """Return a value as text, see `text_of_metric`."""
        return text_of_metric(self.val, value)

    def value_of(self, row: Mapping[str, Any]) -> float:
        """Return a row's value on the validation split."""
        return float(row[self.val])

    def merit_of(self, row: Mapping[str, Any]) -> float:
        """Return the merit of a row's value on the validation split."""
        return self.merit(self.value_of(row))


ACCURACY: Final = Metric("accuracy")


def label_of(column: str) -> str:
    """Return the name of a metric or its column in texts.

    >>> label_of("test_map"), label_of("val_rank10"), label_of("ensemble_test_accuracy")
    ('test mAP', 'val rank-10', 'ensemble test accuracy')
    """
    return re.sub(r"\brank(\d+)\b", r"rank-\1", re.sub(r"\bmap\b", "mAP", column.replace("_", " ")))


def is_share(column: str) -> bool:
    """Return whether the values of a column are shares in [0, 1], shown in percent.

    >>> is_share("val_accuracy"), is_share("test_map"), is_share("test_rank1"), is_share("val_loss")
    (True, True, True, False)
    """
    return re.fullmatch(rf"{SPLITS}_(?:accuracy|map|rank\d+)", column) is not None


def text_of_metric(column: str, value: object) -> str:
    """Return a metric's value as text: a share in percent, other numbers with four digits, nothing before it is known.

    >>> text_of_metric("val_accuracy", 0.5), text_of_metric("test_perplexity", 12.3456), text_of_metric("val_map", None)
    ('50.00 %', '12.35', '')
    """
    if not isinstance(value, int | float):
        return ""
    return f"{100 * value:.2f} %" if is_share(column) else f"{value:.4g}"
