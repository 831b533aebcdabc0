"""Reading of weights, without a model card, from any supported file.

Untrusted files are safe to read: pickles are read with `weights_only=True`, so nothing in them is executed.
"""

import os
import pickle
import re
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from graftpop.errors import CheckpointError
from graftpop.models.network_file import split_peer_file

__all__ = ["check_exists", "read_any_weights", "read_weights"]

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts save the weights."""

PARALLEL: Final = "module."
"""Prefix of every name in the state_dict of DataParallel."""

TORCH_FILES: Final = (b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, 2))
"""First bytes of a file of torch.save: a zip archive, or before torch 1.6 a magic number. Tar archives are refused."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the state_dict in a file, with the names of the plain network.

    The state_dict may be nested in a dict under one of WRAPPERS. If all names have DataParallel's prefix, the prefix is
    removed.

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

    A safetensors file does not record the order of its weights: they are sorted by name, numbers in names by value.

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


def check_exists(place: Path, where: str) -> None:
    """Check that a file of weights, or a run's folder best/, exists.

    Args:
        place: path of the file or the folder.
        where: key that names it, for messages.

    Raises:
        CheckpointError: nothing is there.
    """
    if not os.path.exists(place):
        raise CheckpointError(
            f"{where}: no such file or folder, got '{place}'; give a run's folder best/ or a file of a state_dict"
        )
