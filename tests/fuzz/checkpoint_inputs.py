"""Folders best/, files of weights and peers' files, most of them damaged or inconsistent."""

import io
import json
import os
import pickle
import random
import re
import zipfile
from functools import cache
from typing import Any, Final

import torch
from mutations import INTERESTING, mutated, random_bytes
from safetensors.torch import save

from graftpop.models import build
from graftpop.seeds import seeded

__all__ = ["best_input", "peer_input", "weights_input"]

CARD: Final = {
    "model": "resnet8",
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "image_shape": [3, 8, 8],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
}
ODD: Final[tuple[Any, ...]] = (
    *INTERESTING,
    None,
    True,
    "",
    "x",
    [],
    {},
    0.5,
    -0.0,
    float("nan"),
    float("inf"),
    10**400,
    [3, 10**12, 10**12],
    [3, 8, 8, 8],
    [[3], 8, 8],
    ["a"] * 3,
    [0, 0, 0],
    [float("nan")] * 3,
    "timm:hf-hub:evil/model",
    "wrn28_10",
    "vgg16",
    "timm:local-dir:/tmp",
    "torchvision:fasterrcnn_resnet50_fpn",
    "timm:vit_giant_patch14_224",
    "../resnet8",
    "torchvision:regnet_y_128gf",
    "resnet8\nx",
    "x" * 5000,
)
"""Values for a card's fields; 10**400 is valid JSON."""


@cache
def _weights() -> dict[str, torch.Tensor]:
    with seeded(0, torch.device("cpu")):
        return build("resnet8", 3).state_dict()


@cache
def _safetensors() -> bytes:
    return save(_weights(), {"format": "pt"})


@cache
def _peer_file() -> bytes:
    tensors = {f"network/{name}": tensor for name, tensor in _weights().items()}
    return save(tensors, {"model_card": json.dumps(CARD)})


@cache
def _small() -> dict[str, torch.Tensor]:
    shared = torch.arange(12.0)
    return {
        "a": shared.view(3, 4),
        "b": shared[:3],
        "c": torch.tensor(7),
        "d": torch.zeros(0, 5).half(),
        "e": torch.nn.Parameter(torch.ones(2)),
    }


@cache
def _torch_file(is_zip: bool, is_wrapped: bool) -> bytes:
    file = io.BytesIO()
    tensors = _small() if is_zip else {name: _small()[name] for name in "ab"}  # of one storage
    torch.save(
        {"state_dict": tensors, "epoch": 3} if is_wrapped else tensors, file, _use_new_zipfile_serialization=is_zip
    )
    # the old format names and sorts storages by address; a pickled text is its length, then its bytes
    return file.getvalue() if is_zip else re.sub(rb"X[\x09-\x14]\0\0\0\d{9,20}", b"X\x04\0\0\0here", file.getvalue())


def best_input(rng: random.Random) -> tuple[bytes, bytes]:
    """Return config.json and model.safetensors."""
    card: Any = dict(CARD)
    text, weights = json.dumps(card).encode(), _safetensors()
    kind = rng.randrange(8)
    if kind <= 2:
        for _ in range(rng.choice((1, 1, 2))):
            card[rng.choice((*card, "removed_filters", "extra"))] = rng.choice(ODD)
        text = json.dumps(card if rng.random() < 0.9 else rng.choice(([card], "x", 5, list(card)))).encode()
    elif kind == 3:
        text = (
            mutated(text, rng)
            if rng.random() < 0.8
            else rng.choice((b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b"9" * 9999))
        )
    elif kind == 4:
        weights = mutated(weights, rng)
    else:
        weights = _with_changed_header(weights, rng)
        if rng.random() < 0.3:
            text = json.dumps(card | {"removed_filters": 3}).encode()
    return text, weights


def _with_changed_header(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file, and correct its length."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.3:
        header = mutated(header, rng)
    else:
        entries = json.loads(header)
        for _ in range(rng.choice((1, 1, 2, 5))):
            name = rng.choice(list(entries))
            entry = entries[name]
            change = rng.randrange(8)
            if not isinstance(entry, dict) or change == 0:
                del entries[name]
            elif change == 1:
                entries[rng.choice(("x", "a\nb", "", "conv1.bias", "__metadata__"))] = entry
            elif change == 2:
                entry["dtype"] = rng.choice(("F64", "I64", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "BF16", "X"))
            elif change == 3 and _is_whole(entry):
                entry["shape"] = rng.choice(
                    (
                        [],
                        [0],
                        [1],
                        [2**62, 4],
                        [-1],
                        [0, 2**63],
                        entry["shape"][::-1],
                        [1] * 100,
                        "x",
                        [max(1, size // 2) for size in entry["shape"]],
                        [*entry["shape"], 1],
                    )
                )
                entry["data_offsets"][1] = entry["data_offsets"][0] + rng.choice((0, 4, 8))
            elif change == 4 and _is_whole(entry):
                entry["data_offsets"][rng.randrange(2)] = rng.choice(INTERESTING)
            elif change == 5:
                entries[name] = rng.choice(ODD)
            elif change == 6:
                return save(_narrower(rng))
        header = json.dumps(entries).encode()
    if rng.random() < 0.1:
        return rng.choice(INTERESTING).to_bytes(8, "little", signed=rng.random() < 2) + header + body
    return len(header).to_bytes(8, "little") + header + body


def _is_whole(entry: Any) -> bool:
    """Return whether an entry still has its lists after earlier changes."""
    return all(
        isinstance(entry.get(key), list) and all(type(number) is int for number in entry[key])
        for key in ("shape", "data_offsets")
    )


def _narrower(rng: random.Random) -> dict[str, torch.Tensor]:
    """Return weights, each with all or half of its filters."""
    return {
        name: tensor[: max(1, len(tensor) // rng.choice((1, 2)))].contiguous() if tensor.dim() else tensor
        for name, tensor in _weights().items()
    }


def weights_input(rng: random.Random) -> tuple[str, bytes]:
    """Return name and content of a file of weights."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(("a.pt", "a.safetensors")), random_bytes(rng)
    if kind <= 2:
        return "a.safetensors", _with_changed_header(save(_small_apart()), rng)
    if kind == 3:
        return "a.safetensors", mutated(save(_small_apart()), rng)
    whole = _torch_file(kind < 8, rng.random() < 0.5)
    if kind <= 6:
        return "a.pt", _with_changed_member(whole, rng)
    return "a.pt", mutated(whole, rng)


def _small_apart() -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _small().items()}


def _with_changed_member(content: bytes, rng: random.Random) -> bytes:
    """Change a file in the archive of torch.save, mostly its pickle, and correct the archive's check sums."""
    members = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            members[name] = archive.read(name)
    chosen = rng.choice(list(members))
    if rng.random() < 0.8:
        chosen = next(name for name in members if name.endswith("data.pkl"))
    member = members[chosen]
    members[chosen] = rng.choice((mutated(member, rng), mutated(member, rng), random_bytes(rng), _pickle(rng)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            # a bare name would get today's time
            archive.writestr(zipfile.ZipInfo(name), member, archive.compression)
    return file.getvalue()


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def _pickle(rng: random.Random) -> bytes:
    loop: list[Any] = []
    loop.append(loop)
    return pickle.dumps(
        rng.choice(
            (
                _Call(os.system, "true"),
                _Call(eval, "1"),
                _Call(bytearray, 10**12),
                _Call(torch.Size, [2**62] * 9),
                loop,
                {"a": torch.Size([2]), "b": "text"},
                {1: 2},
                7,
                {7: "x"},
                {"state_dict": {"state_dict": {}}},
                None,
                [],
                {"a": _Call(bytearray, 9)},
            )
        ),
        2,
    )


def peer_input(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return mutated(_peer_file(), rng)
    if kind == 1:
        return random_bytes(rng)
    if kind == 2:
        return _with_changed_header(_peer_file(), rng)
    card: Any = dict(CARD) | {rng.choice((*CARD, "removed_filters")): rng.choice(ODD)}
    text = rng.choice((json.dumps(card), json.dumps(card), "[" * 10**5, "[]", "7", '{"model": []}'))
    return save({"network/a": torch.ones(2)}, {"model_card": text})
