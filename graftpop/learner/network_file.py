"""Networks on disk, and back: the best one of a run, `graftpop.load("RUN/best")`, and plain files of weights.

Nothing that is read is executed: safetensors cannot hold code, and pickles are opened for their tensors alone.
"""

import json
import pickle
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.learner.models import build
from graftpop.learner.removal import narrow_

__all__ = ["load_network", "read_network", "read_weights", "split_peer_file"]

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net")
"""Where training scripts put the weights in what they save."""

PARALLEL: Final = "module."
"""What DataParallel puts before every name."""


def split_peer_file(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the network's weights alone, as a safetensors file, and its model card.

    Of a network from which filters were removed they are those of the smaller one.

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
    prefix = "small/" if "removed_filters" in card else "network/"
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
        ModelError: it is of a kind that is unknown here, or needs a package that is not installed.
    """
    return read_network(folder)[0]


def read_network(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return what `load_network` does, and the card: `config.json` with `model`, `num_classes`, `mean`, `std` and more.

    Raises:
        CheckpointError: the folder holds no such network.
        ModelError: it is of a kind that is unknown here, or needs a package that is not installed.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if absent := {"model", "num_classes", "image_shape", "mean", "std"}.difference(card):
            raise ValueError(f"config.json does not give {' and '.join(sorted(absent))}")
        network = build(card["model"], card["num_classes"], f"{folder / 'config.json'}: model")
        weights = load_file(folder / "model.safetensors")
        if "removed_filters" in card:
            narrow_(network, weights)
        network.load_state_dict(weights)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise CheckpointError(f"{folder}: holds no network that can be loaded: {reason}; give the folder best/ of a "
                              f"run") from error
    return network.eval(), card


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the state_dict in a file, by the names that the bare network has.

    The dict may lie in another one, under one of WRAPPERS, and its names may all have the prefix of DataParallel.

    Args:
        file: `*.safetensors`, else what `torch.save` wrote.

    Raises:
        CheckpointError: it is cut short, or holds something else.
    """
    try:
        content = (load_file(file) if file.suffix == ".safetensors"
                   else torch.load(file, map_location="cpu", weights_only=True))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be opened: {error.strerror or error}; give a file of weights") from error
    except Exception as error:  # of a damaged file torch.load raises nearly anything, struct.error and IndexError too
        # torch's own text on pickles with code in them is a page, and advises to run that code.
        reason = "objects other than tensors" if isinstance(error, pickle.UnpicklingError) else str(error)
        reason = textwrap.shorten(reason or type(error).__name__, 120, placeholder=" ...")
        raise CheckpointError(f"{file}: cut short, or no file of weights: {reason}; copy it again, or save "
                              f"network.state_dict() anew") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not (isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values())):
        raise CheckpointError(f"{file}: must hold a state_dict, names with a tensor each, alone or under one of "
                              f"{', '.join(WRAPPERS)}; save network.state_dict()")
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in content) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}
