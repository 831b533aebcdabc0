"""Attention: the matrices of query, key and value, each split by head."""

from torch import Tensor, nn

from graftpop.sites.units import Heads, Units

__all__ = ["units_of"]

PARTS = {1: ("",), 3: ("q", "k", "v")}
TORCH_PARTS = {"in_proj_weight": 3, "q_proj_weight": 1, "k_proj_weight": 1, "v_proj_weight": 1}


def units_of(layer: nn.Module, key: str, weight: Tensor, heads: Heads | None) -> list[Units] | None:
    """Return one part per matrix, with one unit per head.

    Torch's own attention declares its heads. Other layers show them when they run: their output is split into heads.
    """
    if isinstance(layer, nn.MultiheadAttention) and key in TORCH_PARTS:
        heads = Heads(TORCH_PARTS[key], layer.num_heads)
    elif key != "weight" or not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return None
    if heads is None or len(weight) % (heads.num_parts * heads.num_heads):
        return None
    length = len(weight) // heads.num_parts
    suffixes = PARTS.get(heads.num_parts, tuple(map(str, range(heads.num_parts))))
    return [
        Units("attention", 0, place * length, length, heads.num_heads, place * length, length, suffix)
        for place, suffix in enumerate(suffixes)
    ]
