"""Files of a run, in a local folder or at a URI; every file appears complete or not at all.

On a local disk a file is written under another name and renamed. In an object store a file appears only when it is
complete, so it is written under its own name; renaming would copy it.
"""

import copy
import posixpath
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from graftpop.errors import CheckpointError, StorageError, one_line
from graftpop.masking import MASK, masked

__all__ = ["Folder", "STORAGE_LIMIT_S", "retry_on_oserror", "unreachable"]

T = TypeVar("T")

STORAGE_LIMIT_S = 600.0
"""How long an action on storage is retried."""

GOOGLE_LIMIT = "retry_limit_seconds"

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0


def retry_on_oserror(
    act: Callable[[], T],
    problem: str,
    on_failure: Callable[[str], None] = lambda cause: None,
    timeout_s: float = STORAGE_LIMIT_S,
) -> T:
    """Return the result of an action on storage, retried while it raises OSError, as on a full disk or a lost mount.

    The pause between two attempts doubles from 0.5 s to 20 s.

    Args:
        act: the action; it must be repeatable after a failure at any point.
        problem: prefix of messages, such as `a table cannot be written`.
        on_failure: called once, at the first failure, with the cause.
        timeout_s: how long to retry, in seconds.

    Raises:
        StorageError: the action still failed after `timeout_s`.
        TimeoutError: raised by the action for another reason than storage, such as a peer that did not answer.
    """
    deadline, pause_s, is_told = time.monotonic() + timeout_s, FIRST_PAUSE_S, False
    while True:
        try:
            return act()
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise  # a timeout of storage has an errno; Ray's GetTimeoutError is an OSError too, without one
            reason = f"{problem}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
            if time.monotonic() + pause_s > deadline:
                raise StorageError(
                    f"{reason}; retried for {timeout_s:g} s; free space or reconnect the storage, then use --resume"
                ) from error
        if not is_told:
            on_failure(reason)
            is_told = True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Folder:
    """A folder on a local disk or in an object store.

    Args:
        location: a path, or a URI such as s3://bucket/path.

    Raises:
        CheckpointError: the kind of URI is unknown.
        StorageError: the storage cannot be reached.
    """

    def __init__(self, location: str) -> None:
        path, mark, options = location.partition("?")
        is_uri = "://" in location
        self.location = f"{path.rstrip('/')}{mark}{options}" if is_uri else str(Path(location).absolute())
        if is_uri and MASK in location:
            raise CheckpointError(
                f"{location}: must have its secret, which records and messages mask, got {MASK}; write it in place, or "
                f"leave it out and set the variables of the store's own client, such as AWS_SECRET_ACCESS_KEY"
            )
        try:
            self._filesystem, self._path = pafs.FileSystem.from_uri(_bounded(self.location))
        except pa.ArrowInvalid as error:
            raise CheckpointError(f"{location}: must be a folder or a URI such as s3://bucket/path: {error}") from error
        except OSError as error:  # the bucket's region is looked up here
            raise unreachable(self.location, error) from error
        self.is_local = isinstance(self._filesystem, pafs.LocalFileSystem)

    def __truediv__(self, name: str) -> "Folder":
        inner = copy.copy(self)  # shares the connection
        place, mark, options = self.location, "", ""
        if not self.is_local:
            place, mark, options = self.location.partition("?")  # options say how to reach the store
        inner.location, inner._path = f"{place}/{name}{mark}{options}", self._in(name)
        return inner

    @property
    def shown(self) -> str:
        """The location with its secrets masked, for output and records."""
        return masked(self.location)

    @property
    def local_path(self) -> Path | None:
        """The path on this machine; None in an object store."""
        return Path(self._path) if self.is_local else None

    def create(self) -> None:
        """Create the folder and its parents."""
        self._filesystem.create_dir(self._path)

    def exists(self, name: str = "") -> bool:
        """Return whether the folder, or the named entry in it, exists."""
        return bool(self._filesystem.get_file_info(self._in(name)).type != pafs.FileType.NotFound)

    def check_is_there(self) -> None:
        """Check that the folder can be reached.

        Raises:
            FileNotFoundError: it does not exist.
        """
        if not self.exists():
            raise FileNotFoundError(f"{self.location}: no such folder")

    @contextmanager
    def locked(self, name: str, wait_s: float) -> Iterator[None]:
        """Hold a lock against other processes inside the block; at a URI there is no lock.

        The operating system releases the lock of a process that ends or is killed.

        Args:
            name: name of the lock file.
            wait_s: how long to wait for another process to release the lock, in seconds.

        Raises:
            StorageError: another process still holds the lock.
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
                f"{self.location}: is being written by another process; wait for it to end, or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def names(self) -> list[str]:
        """Return the sorted names in the folder; none if it does not exist."""
        # object stores hold files only; some of them list folders too and some do not
        selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=not self.is_local)
        found = self._filesystem.get_file_info(selector)
        return sorted({posixpath.relpath(info.path, self._path).partition("/")[0] for info in found})

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing one of the same name."""
        with self._whole(name) as stream:
            stream.write(content)

    def write_tables(self, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        """Write tables of one schema into one Parquet file, in order; an error among the tables leaves the old file."""

        def write_to(file: Any) -> None:
            with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
                for table in tables:
                    writer.write_table(table)

        if self.is_local:
            with self._whole(name) as stream:
                write_to(stream)
            return
        with tempfile.TemporaryFile() as whole:  # an object would be replaced, and removed after the error
            write_to(whole)
            whole.seek(0)
            with self._whole(name) as stream:
                shutil.copyfileobj(whole, stream)

    @contextmanager
    def _whole(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a file to write; a failure inside the block leaves no part of it."""
        path = self._in(name)
        if not self.is_local:
            stream = self._filesystem.open_output_stream(path)
            try:
                yield stream
            except BaseException:  # an interrupt leaves no part either
                with suppress(OSError):
                    stream.close()  # completes the part, or fails too and leaves the old object
                    self._filesystem.delete_file(path)
                raise
            stream.close()  # a store that refuses the object keeps the old one
            return
        partial = f"{path}.partial"
        try:
            with self._filesystem.open_output_stream(partial) as stream:
                yield stream
        except BaseException:
            with suppress(OSError):
                self._filesystem.delete_file(partial)
            raise
        self._filesystem.move(partial, path)

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """Return the content of a file, at most its first `most_bytes` bytes.

        Raises:
            OSError: the file does not exist or cannot be read.
        """
        with self._filesystem.open_input_stream(self._in(name)) as stream:
            return bytes(stream.read(most_bytes))

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading; its content comes from a single version.

        pyarrow opens a path twice, for the footer and for the data, and another process may replace the file in
        between. An object in a store may even be replaced while it is read in parts.

        Raises:
            OSError: the file does not exist or cannot be read.
        """
        return self._filesystem.open_input_file(self._in(name)) if self.is_local else pa.BufferReader(self.read(name))

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return int(self._filesystem.get_file_info(self._in(name)).size)

    def read_table(
        self,
        name: str,
        schema: pa.Schema | None = None,
        only: tuple[str, Sequence[str]] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return a table, read from a single version of its file; damaged pages are noticed.

        Args:
            name: name of the file.
            schema: schema of the file; None: the schema in its footer.
            only: a text column, and the values whose rows are read; None: all rows.
            columns: names of the columns to read; None: all.

        Raises:
            CheckpointError: the file is damaged.
            OSError: the file does not exist or cannot be read.
        """
        row_filter = None if only is None else pc.field(only[0]).isin(pa.array(only[1], pa.string()))
        file = self.open(name)
        try:
            with file:
                return pq.read_table(
                    file,
                    schema=schema,
                    filters=row_filter,
                    columns=None if columns is None else list(columns),
                    page_checksum_verification=True,
                )
        except (pa.ArrowException, OSError) as error:
            raise CheckpointError(f"{self._in(name)}: cannot be read as Parquet: {error}") from error

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it exists."""
        info = self._filesystem.get_file_info(self._in(name))
        if info.type == pafs.FileType.Directory:
            self._filesystem.delete_dir(info.path)
        elif info.type == pafs.FileType.File:
            self._filesystem.delete_file(info.path)

    def _in(self, name: str) -> str:
        return posixpath.join(self._path, name)


def unreachable(location: str, error: OSError) -> StorageError:
    """Return the error for a location whose first access failed."""
    return StorageError(f"{location}: cannot be reached: {one_line(error)}; check the address and the credentials")


def _bounded(location: str) -> str:
    """Return a location that limits the retries of Google's client to 30 s; its default is 15 minutes."""
    if not location.startswith(("gs://", "gcs://")) or GOOGLE_LIMIT in location:
        return location
    return f"{location}{'&' if '?' in location else '?'}{GOOGLE_LIMIT}=30"
