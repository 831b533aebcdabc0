"""Readers of user input, called with one random input each; they may raise one-line GraftpopErrors only."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from arrow_inputs import arrow_input, whole_arrow
from checkpoint_inputs import best_input, peer_input, weights_input
from image_inputs import image_input
from parquet_inputs import parquet_input, whole_table
from space_inputs import space_input

from graftpop.cli.weight_tables import network_figures
from graftpop.data.arrow_file import ArrowFile
from graftpop.data.decoding import decode_image, size_of
from graftpop.data.parquet import parquet_files, parquet_source
from graftpop.data.source import Source
from graftpop.errors import CheckpointError, DataError, GraftpopError, ModelError, SpaceError
from graftpop.models.network_file import read_network, split_peer_file
from graftpop.models.weight_file import read_any_weights, read_weights
from graftpop.space import load_space, parse_space
from graftpop.space.yaml_text import read_sections

__all__ = ["READERS", "outcome"]


def read_space(rng: random.Random, folder: Path) -> None:
    """Read a space; an accepted one must read back from its YAML, as for --resume."""
    content, overrides = space_input(rng)
    (folder / "space.yaml").write_bytes(content)
    space = load_space(folder / "space.yaml", overrides)
    assert parse_space(read_sections(space.to_yaml(), "again")) == space


def read_parquet(rng: random.Random, folder: Path) -> None:
    """Decode all images of two tables, one or both of them mutated."""
    changed = parquet_input(rng)
    parts = rng.choice(((changed, whole_table()), (whole_table(), changed), (changed, changed), (changed, changed)))
    for name, content in zip(("train", "test"), parts, strict=True):
        (folder / f"{name}.parquet").write_bytes(content)
    _decode(parquet_source("fuzz", folder, parquet_files(folder), None))


def read_arrow(rng: random.Random, folder: Path) -> None:
    """Decode all images of two tables, one of them mutated."""
    parts = [arrow_input(rng), whole_arrow()]
    rng.shuffle(parts)
    tables = {name: [ArrowFile(folder / f"{name}.arrow")] for name in ("train", "test")}
    for (table,), content in zip(tables.values(), parts, strict=True):
        table.path.write_bytes(content)
    _decode(parquet_source("fuzz", folder, tables, None))


def _decode(source: Source) -> None:
    contents = source.open()
    for part in contents.parts.values():
        num_images = 0
        for pixels, labels in part.blocks:
            assert pixels.shape == (len(labels), contents.height, contents.width, 3)
            num_images += len(labels)
        assert num_images == part.num_images


def read_image(rng: random.Random, folder: Path) -> None:
    """Decode an image from its bytes or from a file."""
    content = image_input(rng)
    encoded: bytes | str = content
    if rng.random() < 0.1:
        (folder / "image").write_bytes(content)
        encoded = str(folder / "image")
    decoded = decode_image(encoded, "image")
    assert (decoded.height, decoded.width) == size_of(encoded, "image")
    assert decoded.mode == "RGB"


def read_checkpoint(rng: random.Random, folder: Path) -> None:
    """Load or inspect a folder best/, load a file of weights or a peer's file."""
    kind = rng.random()
    if kind < 0.45:
        card, weights = best_input(rng)
        (folder / "config.json").write_bytes(card)
        (folder / "model.safetensors").write_bytes(weights)
        if kind < 0.15:
            network_figures("fuzz", read_any_weights(folder), [0.1])
        else:
            read_network(folder)
    elif kind < 0.85:
        name, content = weights_input(rng)
        (folder / name).write_bytes(content)
        assert all(isinstance(name, str) for name in read_weights(folder / name))
    else:
        split_peer_file(peer_input(rng))


READERS: Final[Mapping[str, tuple[Callable[[random.Random, Path], None], tuple[type[GraftpopError], ...]]]] = {
    "space": (read_space, (SpaceError,)),
    "parquet": (read_parquet, (DataError,)),
    "arrow": (read_arrow, (DataError,)),
    "image": (read_image, (DataError,)),
    "checkpoint": (read_checkpoint, (CheckpointError, ModelError)),
}
"""By name: the function and its allowed errors."""


def outcome(reader: str, seed: int | str, folder: Path) -> str:
    """Return how a reader ended on the input of a seed: `accepted`, or the error without names and numbers.

    Args:
        reader: a key of READERS.
        seed: seed of the input.
        folder: folder of the input, overwritten by each call.
    """
    read, expected = READERS[reader]
    try:
        read(random.Random(f"{reader} {seed}"), folder)
    except expected as error:
        message = str(error)
        assert len(message.splitlines()) == 1, f"not one line: {message!r}"
        return _kind(type(error).__name__, message.replace(str(folder), "FOLDER"))
    return "accepted"


def _kind(name: str, message: str) -> str:
    """Return the words of a message up to the value."""
    words = "".join(letter if letter.isalpha() else " " for letter in message.partition(", got")[0]).split()
    return f"{name}: {' '.join(words)[:70]}"
