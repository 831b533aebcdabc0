"""Files of a run, in a local folder or at a URI: there as a whole, or not there.

A file on a disk is written under another name and then renamed; in an object store it appears when it is complete
anyway, and a renaming would be a copy.
"""

import copy
import posixpath
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from graftpop.errors import CheckpointError, StorageError, one_line

__all__ = ["Folder", "STORAGE_LIMIT_S", "retry_on_oserror", "unreachable"]

T = TypeVar("T")

STORAGE_LIMIT_S = 600.0
"""How long storage may be away before what needs it gives up."""

GOOGLE_LIMIT = "retry_limit_seconds"

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0


def retry_on_oserror(
    act: Callable[[], T],
    what: str,
    on_failure: Callable[[str], None] = lambda cause: None,
    timeout_s: float = STORAGE_LIMIT_S,
) -> T:
    """Return what an action on storage returns, trying again while it fails: a full disk, a mount that is away.

    Args:
        act: may be begun again from any point of it.
        what: is being done, as messages have it.
        on_failure: called once with the cause, when it fails for the first time.
        timeout_s: how long to try.

    Raises:
        StorageError: it could not be done in all that time.
    """
    deadline, pause_s, is_told = time.monotonic() + timeout_s, FIRST_PAUSE_S, False
    while True:
        try:
            return act()
        except OSError as error:
            reason = f"{what}: {str(error).splitlines()[0]}"
            if time.monotonic() + pause_s > deadline:
                raise StorageError(
                    f"{reason}; tried for {timeout_s:g} s; make room or bring the storage back, then go "
                    f"on with --resume"
                ) from error
        if not is_told:
            on_failure(reason)
            is_told = True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Folder:
    """A folder of a run.

    Args:
        location: a path, or a URI such as s3://bucket/path.

    Raises:
        CheckpointError: no such kind of URI.
        StorageError: what it names cannot be reached.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/") if "://" in location else str(Path(location).absolute())
        try:
            self._filesystem, self._path = pafs.FileSystem.from_uri(_bounded(self.location))
        except pa.ArrowInvalid as error:
            raise CheckpointError(f"{location}: must be a folder or a URI such as s3://bucket/path: {error}") from error
        except OSError as error:  # a bucket's region is asked for here
            raise unreachable(self.location, error) from error
        self.is_local = isinstance(self._filesystem, pafs.LocalFileSystem)

    def __truediv__(self, name: str) -> "Folder":
        inner = copy.copy(self)  # of the same connection
        place, mark, options = self.location, "", ""
        if not self.is_local:
            place, mark, options = self.location.partition("?")  # how to reach it
        inner.location, inner._path = f"{place}/{name}{mark}{options}", self._in(name)
        return inner

    @property
    def local_path(self) -> Path | None:
        """Where it is on this machine's disks; None where it is not."""
        return Path(self._path) if self.is_local else None

    def create(self) -> None:
        """Make the folder, and those above it."""
        self._filesystem.create_dir(self._path)

    def exists(self, name: str = "") -> bool:
        """Return whether the folder, or something in it, is there."""
        return bool(self._filesystem.get_file_info(self._in(name)).type != pafs.FileType.NotFound)

    def check_is_there(self) -> None:
        """Check that the folder can be reached.

        Raises:
            FileNotFoundError: it is not there.
        """
        if not self.exists():
            raise FileNotFoundError(f"{self.location}: is not there")

    @contextmanager
    def locked(self, name: str, wait_s: float) -> Iterator[None]:
        """Keep other processes from writing here for the time of a block. At a URI there is no such lock.

        Args:
            name: of the file that is locked.
            wait_s: how long to wait for another process that holds it; it lets go when it ends, however it ends.

        Raises:
            StorageError: another process still holds it.
        """
        if not self.is_local:
            yield
            return
        self.create()
        lock = FileLock(self._in(name), timeout=wait_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"{self.location}: is being written by another process; wait until it has ended, or end it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def names(self) -> list[str]:
        """Return the names of what is in the folder, sorted; none where it is not there."""
        # object stores know files; whether what they call folders is listed depends on the store
        selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=not self.is_local)
        found = self._filesystem.get_file_info(selector)
        return sorted({posixpath.relpath(info.path, self._path).partition("/")[0] for info in found})

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self._whole(name) as stream:
            stream.write(content)

    def write_tables(self, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        """Write tables, one after the other, as one Parquet file."""
        with self._whole(name) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)

    @contextmanager
    def _whole(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a file to write; what fails on the way leaves no part of it."""
        path = self._in(name)
        partial = f"{path}.partial" if self.is_local else path
        try:
            with self._filesystem.open_output_stream(partial) as stream:
                yield stream
        except BaseException:  # an interrupt too leaves no part
            with suppress(OSError):
                self._filesystem.delete_file(partial)
            raise
        if self.is_local:
            self._filesystem.move(partial, path)

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """Return the content of a file, or its beginning where there is more than wanted.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self._filesystem.open_input_stream(self._in(name)) as stream:
            return bytes(stream.read(most_bytes))

    def read_table(
        self,
        name: str,
        schema: pa.Schema | None = None,
        only: tuple[str, Sequence[str]] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return a table as one opening of its file gives it.

        pyarrow opens a path twice, for the footer and for the data; in between another process may have renamed a
        newer file to it. An object in a store may even be replaced while it is read in parts.

        Args:
            name: of the file.
            schema: that it has; None: as it says.
            only: a column of text, and its values in the rows that are wanted; None: all rows.
            columns: that are wanted; None: all.

        Raises:
            CheckpointError: the file is damaged.
            OSError: it is not there, or cannot be read.
        """
        wanted = None if only is None else pc.field(only[0]).isin(pa.array(only[1], pa.string()))
        file = self._filesystem.open_input_file(self._in(name)) if self.is_local else pa.BufferReader(self.read(name))
        try:
            with file:
                return pq.read_table(
                    file, schema=schema, filters=wanted, columns=None if columns is None else list(columns)
                )
        except (pa.ArrowException, OSError) as error:
            raise CheckpointError(f"{self._in(name)}: cannot be read as Parquet: {error}") from error

    def remove(self, name: str) -> None:
        """Remove what is in the folder under a name, if it is there."""
        info = self._filesystem.get_file_info(self._in(name))
        if info.type == pafs.FileType.Directory:
            self._filesystem.delete_dir(info.path)
        elif info.type == pafs.FileType.File:
            self._filesystem.delete_file(info.path)

    def _in(self, name: str) -> str:
        return posixpath.join(self._path, name)


def unreachable(location: str, error: OSError) -> StorageError:
    """Return the error of a location that does not answer as it should at the first time."""
    return StorageError(f"{location}: cannot be reached: {one_line(error)}; see its address and the credentials for it")


def _bounded(location: str) -> str:
    """Return a location with a limit to what Google's library tries again by itself, for 15 minutes otherwise."""
    if not location.startswith(("gs://", "gcs://")) or GOOGLE_LIMIT in location:
        return location
    return f"{location}{'&' if '?' in location else '?'}{GOOGLE_LIMIT}=30"
