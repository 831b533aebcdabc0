"""The states of one trial's population after its rounds: written whole or not at all, and read only if whole.

A checkpoint is a folder with a file a peer and `population.json`, which is written last and has the size and the hash
of every other: without it there is no checkpoint, and what does not fit it is damaged. Kept are the last two and the
best.
Nothing that is read is executed, and no name in it leads out of the folder.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graftpop.errors import CheckpointError
from graftpop.run.storage import Folder

__all__ = ["Checkpoint", "Checkpoints", "CheckpointMetadata"]

FACTS = "population.json"
MOST_FACTS_BYTES = 16 * 2**20
LAST_KEPT = 2

FileName = Annotated[str, Field(pattern=r"^(peer|teacher)-[0-9]{1,6}\.safetensors$")]
Count = Annotated[int, Field(ge=0)]


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants")


class FileMetadata(_Described):
    """What one file has to be."""

    bytes: Count
    blake2b: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class CheckpointMetadata(_Described):
    """What a checkpoint is, besides its files.

    Attributes:
        round: after which it was made; 0 is before the first.
        score: by which the best is kept.
        is_complete: whether the population has nothing more to do.
        peers: who takes part.
        num_restarts: how often each was replaced.
        adopted: which hand-over of another trial's checkpoint it comes from, under population based training.
        summary: what the trial reported last.
        settings: of the population.
        files: by name.
    """

    format_version: Literal[2] = 2
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
    """One checkpoint.

    Args:
        facts: as they were written.
        folder: that it lies in.
    """

    def __init__(self, facts: CheckpointMetadata, folder: Folder) -> None:
        self.facts = facts
        self._folder = folder

    def files(self) -> dict[str, bytes]:
        """Return all files by name.

        Raises:
            CheckpointError: one is absent, cut short or changed.
        """
        return {name: self.read(name) for name in self.facts.files}

    def read(self, name: str) -> bytes:
        """Return one file.

        Raises:
            CheckpointError: it is absent, cut short or changed.
        """
        where = (self._folder / name).location
        if name not in self.facts.files:
            raise CheckpointError(f"{where}: is no part of this checkpoint")
        expected = self.facts.files[name]
        try:
            content = self._folder.read(name, expected.bytes + 1)
        except OSError as error:
            raise CheckpointError(f"{where}: cannot be read: {error}") from error
        if len(content) != expected.bytes:
            raise CheckpointError(f"{where}: cut short or grown, must have {expected.bytes:,} bytes")
        if _hash(content) != expected.blake2b:
            raise CheckpointError(f"{where}: damaged, is not what was written")
        return content


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        folder: of the trial.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._handed_over: int | None = None

    def hand_over(self) -> None:
        """Keep the newest, besides what is kept anyhow, until the next time: others may go on from it."""
        self._handed_over = next((checkpoint.facts.round for checkpoint in self.newest_first()), None)

    def write(self, facts: CheckpointMetadata, files: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
        """Write a checkpoint, in place of one of the same round, and remove those that are no longer kept.

        Args:
            facts: of the checkpoint, its files left out.
            files: gives name and content of each; one at a time, so that they need not fit into memory together.

        Raises:
            OSError: it cannot be written; those before are as they were.
        """
        folder = self._folder / _name(facts.round)
        folder.create()
        folder.remove(FACTS)
        written = {}
        for name, content in files():
            folder.write(name, content)
            written[name] = FileMetadata(bytes=len(content), blake2b=_hash(content))
        folder.write(FACTS, facts.model_copy(update={"files": written}).model_dump_json(indent=2).encode())
        self._remove_but(self._kept())

    def location_of(self, round: int, name: str) -> str:
        """Return where a file of the checkpoint after a round lies, will lie, or lay."""
        return (self._folder / _name(round) / name).location

    def newest_first(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints that are there, the newest first.

        One whose `population.json` is absent was never completed; one whose is damaged is as good as absent.
        """
        for name in reversed(self._folder.names()):
            folder = self._folder / name
            try:
                facts = CheckpointMetadata.model_validate_json(folder.read(FACTS, MOST_FACTS_BYTES))
            except (OSError, ValidationError):
                continue
            if name == _name(facts.round):
                yield Checkpoint(facts, folder)

    def up_to(self, round: int) -> list[Checkpoint]:
        """Return the checkpoints up to a round, the newest first."""
        return [found for found in self.newest_first() if found.facts.round <= round]

    def remove_after(self, round: int) -> None:
        """Remove the checkpoints after a round: the trial goes on from another's."""
        self._remove_but({found.facts.round for found in self.up_to(round)})

    def _kept(self) -> set[int]:
        found = [checkpoint.facts for checkpoint in self.newest_first()]
        best = max(found, key=lambda facts: (facts.score, -facts.round))
        return {
            facts.round
            for facts in found
            if facts in found[:LAST_KEPT] or facts is best or facts.round == self._handed_over
        }

    def _remove_but(self, rounds: set[int]) -> None:
        kept = {_name(round) for round in rounds}
        for name in self._folder.names():
            if name not in kept:
                (self._folder / name).remove(FACTS)  # first: from here on it is no checkpoint
                self._folder.remove(name)


def _name(round: int) -> str:
    return f"round-{round:06}"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
