"""The best network on disk, and back: `graftpop.load("RUN/best")`.

Weights are in safetensors, which is read without executing anything.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import nn

from graftpop.errors import CheckpointError
from graftpop.learner.models import build

__all__ = ["load_network", "split_peer_file"]


def split_peer_file(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the network's weights alone, as a safetensors file, and its model card.

    Args:
        content: what `graftpop.peer.Peer.save` returned.

    Raises:
        CheckpointError: it is something else.
    """
    try:
        tensors = load(content)
        header_length = int.from_bytes(content[:8], "little")
        card = json.loads(json.loads(content[8 : 8 + header_length])["__metadata__"]["model_card"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"checkpoint of a peer: not readable: {error}") from error
    prefix = "network/"
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return save(weights, {"format": "pt"}), card


def load_network(folder: str | Path) -> nn.Module:
    """Return the trained network of a folder `RUN/best`, in evaluation mode and ready to call.

    It takes images (B, 3, H, W) as floats in [0, 1], less the `mean` and divided by the `std` of `config.json`, and
    returns logits (B, num_classes).

    Args:
        folder: with `config.json` and `model.safetensors`.

    Raises:
        CheckpointError: the folder holds no such network.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        network = build(card["model"], card["num_classes"])
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise CheckpointError(f"{folder}: holds no network that can be loaded: {reason}; give the folder best/ of a "
                              f"run") from error
    return network.eval()
