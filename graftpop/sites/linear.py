"""Linear layers; a unit is a row of the weight, one output feature."""

from torch import Tensor, nn

from graftpop.sites.units import Heads, Units, rows

__all__ = ["units_of"]


def units_of(layer: nn.Module, key: str, weight: Tensor, heads: Heads | None) -> list[Units] | None:
    """Return one unit per output feature of a Linear or bilinear layer."""
    del heads
    return rows("linear", weight) if key == "weight" and isinstance(layer, (nn.Linear, nn.Bilinear)) else None
