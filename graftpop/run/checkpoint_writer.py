"""A trial's checkpoints, written while its peers go on."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.storage import retry_on_oserror

__all__ = ["CheckpointWriter"]


class PendingWrite(NamedTuple):
    """A checkpoint that is being written: after which round, its end, and why storage was away meanwhile."""

    round: int
    done: Future[None]
    causes: list[str]


class CheckpointWriter:
    """Writes checkpoints one at a time in a thread, and waits while storage is away.

    Who is killed before one is there goes on from the one before.

    Args:
        checkpoints: where they are written.
        trial: whose they are, for messages.
        on_storage_away: called by the thread that waits for a checkpoint, with its round and why storage was away.
    """

    def __init__(self, checkpoints: Checkpoints, trial: str, on_storage_away: Callable[[int, str], None]) -> None:
        self._checkpoints, self._trial, self._on_storage_away = checkpoints, trial, on_storage_away
        self._thread = ThreadPoolExecutor(1)
        self._writing: PendingWrite | None = None

    def write(self, facts: CheckpointMetadata, files: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
        """Begin to write a checkpoint, see `Checkpoints.write`, once the one before is there.

        Raises:
            StorageError: the one before could not be written.
        """
        self.finish()
        causes: list[str] = []
        done = self._thread.submit(
            retry_on_oserror,
            partial(self._checkpoints.write, facts, files),
            f"trial {self._trial}: its checkpoint cannot be written",
            causes.append,
        )
        self._writing = PendingWrite(facts.round, done, causes)

    def finish(self) -> None:
        """Wait until the checkpoint that was begun last is there.

        Raises:
            StorageError: it could not be written.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.done.result()
        finally:
            for cause in writing.causes:
                self._on_storage_away(writing.round, cause)
