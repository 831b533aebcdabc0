"""Figures without those that measure time, which differ from run to run."""

from collections.abc import Mapping
from typing import Any

__all__ = ["untimed"]

TIMINGS = {"images_per_s", "train_s", "exchange_s"} | {
    f"latency_{size}{left}_ms" for size in (1, 128) for left in ("", "_left")
}


def untimed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a row or a result that are the same in every run."""
    return {key: value for key, value in row.items() if key not in TIMINGS}
