"""A trial's checkpoints, written in a thread while its peers train."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from graftpop.errors import PopulationLost, one_line
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.storage import retry_on_oserror

__all__ = ["CheckpointWriter"]


class PendingWrite(NamedTuple):
    """A checkpoint that is being written: its round, its future, and why storage was away meanwhile."""

    round: int
    done: Future[None]
    causes: list[str]


class CheckpointWriter:
    """Writes checkpoints one at a time in a thread, and retries while storage is away.

    If killed mid-write, the trial resumes from the previous checkpoint.

    Args:
        checkpoints: the checkpoints of the trial.
        trial: trial ID, used in messages.
        on_storage_away: called with the round and the cause, by the thread that waits for the checkpoint.
    """

    def __init__(self, checkpoints: Checkpoints, trial: str, on_storage_away: Callable[[int, str], None]) -> None:
        self._checkpoints, self._trial, self._on_storage_away = checkpoints, trial, on_storage_away
        self._thread = ThreadPoolExecutor(1)
        self._writing: PendingWrite | None = None

    def write(self, metadata: CheckpointMetadata, files: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
        """Start writing a checkpoint as soon as the previous one is complete.

        Args:
            metadata: metadata of the checkpoint, without its files.
            files: yields name and content of each file, see `Checkpoints.write`; called in the thread.

        Raises:
            StorageError: the previous checkpoint could not be written.
            PopulationLost: the states for the previous checkpoint are lost, or did not arrive in time.
        """
        self.finish()
        causes: list[str] = []
        done = self._thread.submit(
            retry_on_oserror,
            partial(self._checkpoints.write, metadata, files),
            f"trial {self._trial}: the checkpoint cannot be written",
            causes.append,
        )
        self._writing = PendingWrite(metadata.round, done, causes)

    def finish(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            StorageError: it could not be written.
            PopulationLost: the states of its peers are lost, or did not arrive in time.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.done.result()
        except TimeoutError as error:
            raise PopulationLost(
                f"trial {self._trial}: the states of its peers must arrive in time for the checkpoint after round "
                f"{writing.round}, got {one_line(error) or type(error).__name__}; the trial resumes from the one before"
            ) from error
        finally:
            for cause in writing.causes:
                self._on_storage_away(writing.round, cause)
