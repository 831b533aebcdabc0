"""Checkpoints of one trial's population, one per round: complete or absent, and verified when read.

A checkpoint is a folder with one file per peer and `population.json`. That file is written last and holds the size and
the hash of every other file, and its own hash: a folder without it is no checkpoint, and a file that differs from it is
damaged. An unknown `format_version` is refused, because skipping it would train again in silence. The last two
checkpoints and the best one are kept. After the last round, two are kept: the last one, and the best one or the one
before it.
Nothing that is read is executed, and no file name can point outside the folder.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graftpop.errors import CheckpointError, one_line
from graftpop.run.storage import Folder

__all__ = ["Checkpoint", "Checkpoints", "CheckpointMetadata"]

FORMAT_VERSION: Final = 3
METADATA = "population.json"
MAX_METADATA_BYTES = 16 * 2**20
LAST_KEPT = 2

OnDamage = Callable[[int, str], None]
"""Called with the round and the cause of each checkpoint that is skipped because its `population.json` is damaged."""

FileName = Annotated[str, Field(pattern=r"^(peer|teacher)-[0-9]{1,6}\.safetensors$")]
Count = Annotated[int, Field(ge=0)]


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants")


class FileMetadata(_Described):
    """Size and hash of one file, as written."""

    bytes: Count
    blake2b: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class CheckpointMetadata(_Described):
    """The content of `population.json`.

    Attributes:
        format_version: 2 has no `blake2b`.
        blake2b: hash of the file as it is with an empty value here.
        round: number of completed rounds; 0 is before the first.
        score: merit of the validation score, higher is better; the checkpoint with the highest is kept.
        is_complete: whether the population has finished all rounds.
        peers: indices of the peers that take part.
        num_restarts: number of replacements, by peer.
        adopted: ID of the hand-over that it was adopted from under population based training, else empty.
        summary: the trial's last report.
        settings: settings of the population.
        files: size and hash of each file, by name.
    """

    format_version: Literal[2, 3] = FORMAT_VERSION
    blake2b: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""
    round: Count
    score: float
    is_complete: bool
    peers: list[Count]
    num_restarts: dict[int, Count]
    adopted: str = ""
    summary: dict[str, Any]
    settings: dict[str, Any]
    files: dict[FileName, FileMetadata] = {}


class Checkpoint:
    """One complete checkpoint.

    Args:
        metadata: its metadata, as written.
        folder: its folder.
    """

    def __init__(self, metadata: CheckpointMetadata, folder: Folder) -> None:
        self.metadata = metadata
        self._folder = folder

    def files(self) -> dict[str, bytes]:
        """Return the content of every file, by name.

        Raises:
            CheckpointError: a file is absent, truncated or changed.
        """
        return {name: self.read(name) for name in self.metadata.files}

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            CheckpointError: the file is absent, truncated or changed.
        """
        where = (self._folder / name).location
        if name not in self.metadata.files:
            raise CheckpointError(f"{where}: not a file of this checkpoint")
        expected = self.metadata.files[name]
        try:
            content = self._folder.read(name, expected.bytes + 1)
        except OSError as error:
            raise CheckpointError(f"{where}: cannot be read: {error}") from error
        if len(content) != expected.bytes:
            raise CheckpointError(f"{where}: cut short or grown, must have {expected.bytes:,} bytes")
        if _hash(content) != expected.blake2b:
            raise CheckpointError(f"{where}: damaged, the content differs from its hash")
        return content


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        folder: folder of the trial's checkpoints.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._handed_over: int | None = None

    def hand_over(self) -> None:
        """Keep the newest checkpoint until the next call, because other trials may resume from it."""
        self._handed_over = next((checkpoint.metadata.round for checkpoint in self.newest_first()), None)

    def write(self, metadata: CheckpointMetadata, files: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
        """Write a checkpoint, replacing one of the same round, and remove those that are no longer kept.

        Args:
            metadata: metadata of the checkpoint, without its files.
            files: yields name and content of each file, one at a time, so that they need not fit in memory together.

        Raises:
            OSError: it cannot be written; earlier checkpoints are unchanged.
        """
        folder = self._folder / _name(metadata.round)
        folder.create()
        folder.remove(METADATA)
        written = {}
        for name, content in files():
            folder.write(name, content)
            written[name] = FileMetadata(bytes=len(content), blake2b=_hash(content))
        text = metadata.model_copy(update={"files": written, "blake2b": ""}).model_dump_json(indent=2)
        own = f'"blake2b": "{_hash(text.encode())}"'
        folder.write(METADATA, text.replace('"blake2b": ""', own, 1).encode())
        self._remove_but(self._kept())

    def location_of(self, round: int, name: str) -> str:
        """Return the location, without secrets, of a file of the checkpoint after a round, whether it exists or not."""
        return (self._folder / _name(round) / name).shown

    def newest_first(self, on_damage: OnDamage = lambda round, cause: None) -> Iterator[Checkpoint]:
        """Yield the complete checkpoints, newest first; those without a valid `population.json` are skipped.

        Raises:
            CheckpointError: another version of graftpop wrote the checkpoint.
        """
        for name in reversed(self._folder.names()):
            if not (numbered := re.fullmatch(r"round-(\d{6,})", name)):
                continue
            folder, round = self._folder / name, int(numbered[1])
            where = (folder / METADATA).location
            try:
                content = folder.read(METADATA, MAX_METADATA_BYTES)
                metadata = CheckpointMetadata.model_validate_json(content)
            except FileNotFoundError:  # its writer or its removal was killed
                continue
            except OSError as error:
                on_damage(round, f"{where}: cannot be read: {one_line(error)}")
            except ValidationError as error:
                on_damage(round, f"{where}: damaged: {_first_problem(error, where)}")
            else:
                if metadata.round != round:
                    on_damage(round, f"{where}: damaged: it is of round {metadata.round}")
                elif not _is_unchanged(content, metadata):
                    on_damage(round, f"{where}: damaged: its content differs from its hash")
                else:
                    yield Checkpoint(metadata, folder)

    def remove_networks(self) -> None:
        """Remove the files of peers and teachers; `population.json` stays, so the trial is known but cannot resume."""
        for checkpoint in self.newest_first():
            for name in checkpoint.metadata.files:
                (self._folder / _name(checkpoint.metadata.round)).remove(name)

    def up_to(self, round: int) -> list[Checkpoint]:
        """Return the checkpoints up to and including a round, newest first."""
        return [found for found in self.newest_first() if found.metadata.round <= round]

    def remove_after(self, round: int) -> None:
        """Remove the checkpoints after a round, when the trial continues from another trial's checkpoint."""
        self._remove_but({found.metadata.round for found in self.up_to(round)})

    def _kept(self) -> set[int]:
        found = [checkpoint.metadata for checkpoint in self.newest_first()]
        best = max(found, key=lambda metadata: (metadata.score, -metadata.round))
        last = found[: 1 if found[0].is_complete and best is not found[0] else LAST_KEPT]
        return {
            metadata.round
            for metadata in found
            if metadata in last or metadata is best or metadata.round == self._handed_over
        }

    def _remove_but(self, rounds: set[int]) -> None:
        kept = {_name(round) for round in rounds}
        for name in self._folder.names():
            if name not in kept:
                (self._folder / name).remove(METADATA)  # first, so that no partly removed checkpoint is read
                self._folder.remove(name)


def _first_problem(error: ValidationError, where: str) -> str:
    """Return the first problem of invalid metadata.

    Raises:
        CheckpointError: an unknown `format_version` is the reason.
    """
    problems = {".".join(map(str, problem["loc"])): problem for problem in error.errors()}
    if "format_version" in problems:
        got = one_line(problems["format_version"]["input"])
        raise CheckpointError(
            f"{where}: format_version must be 2 or {FORMAT_VERSION}, got {got}; use the version of graftpop that wrote "
            f"it (run.json has its number)"
        ) from error
    key, problem = next(iter(problems.items()))
    return f"{key} {one_line(problem['msg'])}".strip()


def _is_unchanged(content: bytes, metadata: CheckpointMetadata) -> bool:
    """Return whether the content of `population.json` has its own hash; format 2 has none."""
    own = metadata.blake2b
    if metadata.format_version == 2 and not own:
        return True
    return own == _hash(content.replace(own.encode(), b"", 1))


def _name(round: int) -> str:
    return f"round-{round:06}"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
