"""Loading of networks from disk: the best network of a run (`graftpop.load("RUN/best")`), a peer's file, or weights.

Loading is safe for untrusted files. It executes nothing: safetensors holds no code, and pickles are read with
`weights_only=True`. It downloads nothing: a card names an architecture, never an address. It imports nothing: the
module of a user-defined class must be imported before. Its memory is bounded by the size of the file.
"""

import json
import math
import pickle
import re
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import PYTHON, build
from graftpop.models.ensemble import Ensemble
from graftpop.models.narrowing import narrow_

__all__ = [
    "load_network",
    "read_any_weights",
    "read_card",
    "read_network",
    "read_weights",
    "rebuilt_network",
    "split_peer_file",
]

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts save the weights."""

PARALLEL: Final = "module."
"""Prefix of every name in the state_dict of DataParallel."""

MAX_CARD_BYTES: Final = 2**24  # names of 65,536 classes
MAX_CLASSES: Final = 2**16
MAX_IMAGE_VALUES: Final = 3 * 2**25  # the pixel limit of images
MAX_WHOLE_PARAMETERS: Final = 15 * 10**7  # of a full network whose filters were removed; VGG-16 has 1.4e8

TORCH_FILES: Final = (b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, 2))
"""First bytes of a file of torch.save: a zip archive, or before torch 1.6 a magic number. Tar archives are refused."""


def split_peer_file(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the weights of a peer's network, as a safetensors file, and its model card.

    If filters were removed, they are the weights of the smaller network.

    Args:
        content: bytes from `graftpop.peer.peer.Peer.save`.

    Raises:
        CheckpointError: it is not a peer's file.
    """
    try:
        tensors = load(content)
        header_length = int.from_bytes(content[:8], "little")
        card = read_card(json.loads(content[8 : 8 + header_length])["__metadata__"]["model_card"])
    except CheckpointError:
        raise
    except Exception as error:  # as in `read_weights`
        raise CheckpointError(f"checkpoint of a peer: not readable: {_reason(error)}") from error
    prefix = "small/" if "removed_filters" in card else "network/"
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return save(weights, {"format": "pt"}), card


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


def load_network(place: str | Path) -> nn.Module:
    """Return the trained network of a folder `RUN/best`, or of one peer, in evaluation mode.

    It maps images (B, 3, H, W) to logits (B, num_classes). Images are floats in [0, 1], normalized by the values of
    `config.json`: `(x - mean) / std`. An exported ensemble returns the log of its members' mean probabilities.

    Args:
        place: a folder with `config.json` and `model.safetensors`, or a peer's file of a checkpoint.

    Raises:
        CheckpointError: it holds no such network.
        ModelError: the architecture is unknown, or needs a package that is not installed.
    """
    return read_network(place)[0]


def read_network(place: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network as `load_network` does, and its card: the map in `config.json`; see `read_card`.

    Raises:
        CheckpointError: it holds no such network.
        ModelError: the architecture is unknown, or needs a package that is not installed.
    """
    place = Path(place)
    try:
        if place.is_file():
            content, card = split_peer_file(place.read_bytes())
            weights = load(content)
        else:
            card, weights = _card_and_weights(place)
    except Exception as error:  # as in `read_weights`
        raise _no_network(str(place), error) from error
    return rebuilt_network(card, weights, str(place)), card


def _card_and_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return card and weights from one opening of `model.safetensors`, which a running study may replace meanwhile.

    The card of best/ is in its header; an exported network has it in `config.json` alone.
    """
    with safe_open(folder / "model.safetensors", "pt") as file:
        card = (file.metadata() or {}).get("model_card")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if card is None:
        with open(folder / "config.json", "rb") as stream:
            card = stream.read(MAX_CARD_BYTES + 1)
    return read_card(card), weights


def rebuilt_network(card: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the network that a card describes, with the given weights, in evaluation mode.

    Args:
        card: checked by `read_card`.
        weights: its state_dict.
        where: file or folder of both, for messages.

    Raises:
        CheckpointError: the weights do not fit the network.
        ModelError: the architecture is unknown, or needs a package that is not installed.
    """
    _check_is_imported(card["model"], where)
    num_bytes, is_narrow = sum(tensor.nbytes for tensor in weights.values()), "removed_filters" in card
    try:
        # 2: some networks register a parameter twice; 4: bytes per weight
        with _at_most(MAX_WHOLE_PARAMETERS if is_narrow else 2 * num_bytes // 4):
            members = [
                build(card["model"], card["num_classes"], f"{where}/config.json: model")
                for _ in range(card.get("ensemble", 1))
            ]
        network = Ensemble(members) if "ensemble" in card else members[0]
        if is_narrow:
            narrow_(network, weights)
        network.load_state_dict(weights)
    except ModelError:
        raise
    except Exception as error:  # as in `read_weights`
        raise _no_network(where, error) from error
    return network.eval()


def _check_is_imported(model: str, where: str) -> None:
    """Raise ModelError if the network is a user-defined class whose module is not imported yet."""
    module = model.removeprefix(PYTHON).rpartition(".")[0]
    if model.startswith(PYTHON) and module not in sys.modules:
        raise ModelError(
            f"{where}: the module of '{model}' must be imported before loading, since a file never causes an import; "
            f"import {module} first"
        )


def _no_network(where: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{where}: holds no network that can be loaded: {_reason(error)}; give the folder best/ of a run"
    )


@contextmanager
def _at_most(num_parameters: int) -> Iterator[None]:
    """Make building a network inside the block fail as soon as it exceeds a number of parameters.

    The meta device would allocate nothing, but some networks cannot be built there (torchvision's RegNets).
    """
    num_left = num_parameters

    def count(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal num_left
        num_left -= 0 if parameter is None else parameter.numel()
        if num_left < 0:
            raise CheckpointError(
                f"model.safetensors is too small for this network, which has more than {num_parameters} parameters"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the state_dict in a file, with the names of the plain network.

    It may be nested in a dict under one of WRAPPERS. If all names have the prefix of DataParallel, it is removed.

    Args:
        file: `*.safetensors`, otherwise a file of `torch.save`.

    Raises:
        CheckpointError: the file is damaged, or holds no state_dict.
    """
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _torch_content(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be opened: {error.strerror or error}; give a file of weights") from error
    except Exception as error:  # a damaged file can raise nearly anything, e.g. struct.error and IndexError
        # torch's own message on pickles with code fills a page, and advises to run that code.
        reason = "objects other than tensors" if isinstance(error, pickle.UnpicklingError) else str(error)
        reason = textwrap.shorten(reason or type(error).__name__, 120, placeholder=" ...")
        raise CheckpointError(
            f"{file}: cut short, or no file of weights: {reason}; copy it again, or save network.state_dict() again"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not (isinstance(content, Mapping) and content and all(map(_is_weight, content.items()))):
        raise CheckpointError(
            f"{file}: must hold a state_dict of names and tensors, alone or under one of {', '.join(WRAPPERS)}, "
            f"got something else; save network.state_dict()"
        )
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in content) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def read_any_weights(place: Path) -> dict[str, Tensor]:
    """Return the weights of one network from any supported file or folder, with the names of the plain network.

    A safetensors file keeps no order: its weights are sorted by name, numbers in names by value.

    Args:
        place: a folder with `model.safetensors`, such as best/ of a run; a peer's file of a checkpoint, whose optimizer
            state is ignored; or a file that `read_weights` accepts.

    Raises:
        CheckpointError: the file is damaged, or holds no weights.
    """
    file = place / "model.safetensors" if place.is_dir() else place
    if file != place and not file.exists():
        raise CheckpointError(
            f"{place}: a folder must hold model.safetensors, got none; give best/ of a run, or a file of weights"
        )
    weights = read_weights(file)
    if any(name.startswith("network/") for name in weights):
        weights = load(split_peer_file(file.read_bytes())[0])
    return dict(sorted(weights.items(), key=_by_numbers)) if file.suffix == ".safetensors" else weights


def _by_numbers(entry: tuple[str, Tensor]) -> list[tuple[int, str]]:
    # Compared by length, then as text: int() refuses numbers of very many digits.
    return [(len(part) if part.isdecimal() else 0, part) for part in re.split("([0-9]+)", entry[0])]


def _torch_content(file: Path) -> Any:
    """Return the object in a file of torch.save; refuse archives that decompress to more than the file's size."""
    with open(file, "rb") as stream:
        if not stream.read(16).startswith(TORCH_FILES):
            raise ValueError("it does not begin as one of torch.save")
        if zipfile.is_zipfile(stream) and sum(entry.file_size for entry in zipfile.ZipFile(stream).infolist()) > (
            file.stat().st_size
        ):
            raise ValueError("its content is larger than the file")
    return torch.load(file, map_location="cpu", weights_only=True)


def _is_weight(entry: tuple[Any, Any]) -> bool:
    """Return whether a name and a value can be an entry of a state_dict; no sparse, quantized or meta tensors."""
    name, value = entry
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
