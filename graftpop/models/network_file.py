"""Networks on disk, and back: the best one of a run, `graftpop.load("RUN/best")`, and plain files of weights.

Nothing that is read is executed: safetensors cannot hold code, and pickles are opened for their tensors alone. Nothing
is downloaded: a card names an architecture, never an address. Nor is anything imported: a class of networks of one's
own has to be there before. What loading takes is bounded by the size of the file.
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
"""Where training scripts put the weights in what they save."""

PARALLEL: Final = "module."
"""What DataParallel puts before every name."""


MAX_CARD_BYTES: Final = 2**24  # names of 65,536 classes
MAX_CLASSES: Final = 2**16
MAX_IMAGE_VALUES: Final = 3 * 2**25  # as many pixels as an image may have
MAX_WHOLE_PARAMETERS: Final = 15 * 10**7  # of all from which filters were removed: VGG-16 has 1.4e8

TORCH_FILES: Final = (b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, 2))
"""How a file of torch.save begins: a zip archive, before torch 1.6 its magic number; never a tar archive."""


def split_peer_file(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the network's weights alone, as a safetensors file, and its model card.

    Of a network from which filters were removed they are those of the smaller one.

    Args:
        content: what `graftpop.peer.peer.Peer.save` returned.

    Raises:
        CheckpointError: it is something else.
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
    """Return a model card: what is needed to rebuild a network and to feed it.

    Args:
        text: JSON, a map with `model`, `num_classes`, `image_shape`, `mean`, `std` and more.

    Raises:
        ValueError: it is not JSON, or a value is absent, of another kind or absurd.
    """
    if len(text) > MAX_CARD_BYTES:
        raise ValueError(f"a card has at most {MAX_CARD_BYTES} bytes, got more")
    try:
        card = json.loads(text)
    except RecursionError as error:
        raise ValueError("a card is nested too deep") from error
    if not isinstance(card, dict):
        raise ValueError(f"a card is a map, got {type(card).__name__}")
    if absent := {"model", "num_classes", "image_shape", "mean", "std"}.difference(card):
        raise ValueError(f"config.json does not give {' and '.join(sorted(absent))}")
    shape, colours = card["image_shape"], [card["mean"], card["std"]]
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
    if not all(isinstance(values, list) and len(values) == 3 and all(map(_is_finite, values)) for values in colours):
        raise ValueError(f"mean and std must be three numbers each, got {colours[0]!r} and {colours[1]!r}")
    if min(card["std"]) <= 0:
        raise ValueError(f"std must be above 0, got {card['std']!r}")
    return card


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # float32 holds it


def load_network(place: str | Path) -> nn.Module:
    """Return the trained network of a folder `RUN/best`, or of one peer, in evaluation mode and ready to call.

    It takes images (B, 3, H, W) as floats in [0, 1], less the `mean` and divided by the `std` of `config.json`, and
    returns logits (B, num_classes). An exported ensemble returns the log of the mean of its members' probabilities.

    Args:
        place: a folder with `config.json` and `model.safetensors`, or a peer's file of a checkpoint, whose header has
            the card.

    Raises:
        CheckpointError: it holds no such network.
        ModelError: it is of a kind that is unknown here, or needs a package that is not installed.
    """
    return read_network(place)[0]


def read_network(place: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return what `load_network` does, and the card: `config.json` with `model`, `num_classes`, `mean`, `std` and more.

    Raises:
        CheckpointError: it holds no such network.
        ModelError: it is of a kind that is unknown here, or needs a package that is not installed.
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
    """Return the network of a card with some weights, in evaluation mode.

    Args:
        card: of the network.
        weights: its state dict.
        where: they were found, for messages.

    Raises:
        CheckpointError: the weights are not those of such a network.
        ModelError: it is of a kind that is unknown here, or needs a package that is not installed.
    """
    _check_is_imported(card["model"], where)
    num_bytes, is_narrow = sum(tensor.nbytes for tensor in weights.values()), "removed_filters" in card
    try:
        # twice: some networks make a parameter anew; // 4: bytes of a weight
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
    """Check that a user's own class, if the network is one, need not be imported because a file says so."""
    module = model.removeprefix(PYTHON).rpartition(".")[0]
    if model.startswith(PYTHON) and module not in sys.modules:
        raise ModelError(
            f"{where}: holds a network of '{model}', and no module is imported because a file names it; "
            f"import {module} first"
        )


def _no_network(where: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{where}: holds no network that can be loaded: {_reason(error)}; give the folder best/ of a run"
    )


@contextmanager
def _at_most(num_parameters: int) -> Iterator[None]:
    """Let building a network inside the block fail as soon as it has more parameters.

    On the meta device, where nothing would be allocated, some networks cannot be built (torchvision's RegNets).
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
    """Return the state_dict in a file, by the names that the bare network has.

    The dict may lie in another one, under one of WRAPPERS, and its names may all have the prefix of DataParallel.

    Args:
        file: `*.safetensors`, else what `torch.save` wrote.

    Raises:
        CheckpointError: it is cut short, or holds something else.
    """
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _torch_content(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be opened: {error.strerror or error}; give a file of weights") from error
    except Exception as error:  # of a damaged file torch.load raises nearly anything, struct.error and IndexError too
        # torch's own text on pickles with code in them is a page, and advises to run that code.
        reason = "objects other than tensors" if isinstance(error, pickle.UnpicklingError) else str(error)
        reason = textwrap.shorten(reason or type(error).__name__, 120, placeholder=" ...")
        raise CheckpointError(
            f"{file}: cut short, or no file of weights: {reason}; copy it again, or save network.state_dict() anew"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not (isinstance(content, Mapping) and content and all(map(_is_weight, content.items()))):
        raise CheckpointError(
            f"{file}: must hold a state_dict, names with a tensor each, alone or under one of "
            f"{', '.join(WRAPPERS)}; save network.state_dict()"
        )
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in content) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def read_any_weights(place: Path) -> dict[str, Tensor]:
    """Return the weights of one network, whatever they lie in, by the names that the bare network has.

    Those of a safetensors file, which keeps no order, are sorted by name, numbers in it by their value.

    Args:
        place: a folder with `model.safetensors`, such as best/ of a run; a peer's file of a checkpoint, of which only
            the network is returned; or a file as `read_weights` takes it.

    Raises:
        CheckpointError: it is cut short, or holds something else.
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
    # a longer number is a larger one, and is no int that may have too many digits
    return [(len(part) if part.isdecimal() else 0, part) for part in re.split("([0-9]+)", entry[0])]


def _torch_content(file: Path) -> Any:
    """Return what torch.save wrote; of an archive the content is not larger than the file."""
    with open(file, "rb") as stream:
        if not stream.read(16).startswith(TORCH_FILES):
            raise ValueError("it does not begin as one of torch.save")
        if zipfile.is_zipfile(stream) and sum(entry.file_size for entry in zipfile.ZipFile(stream).infolist()) > (
            file.stat().st_size
        ):
            raise ValueError("its content is larger than the file")
    return torch.load(file, map_location="cpu", weights_only=True)


def _is_weight(entry: tuple[Any, Any]) -> bool:
    """Say whether a name and a value could be of a state_dict; sparse, quantised and meta tensors are of none."""
    name, value = entry
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
