"""Folder writes files atomically, and retry_on_oserror waits for storage that is away."""

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.fs import FileSystem, LocalFileSystem

from graftpop.errors import CheckpointError, StorageError
from graftpop.run.storage import Folder, retry_on_oserror

SCHEMA = pa.schema([("number", pa.int64())])


def table(*numbers: int) -> pa.Table:
    return pa.Table.from_pydict({"number": list(numbers)}, SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "run"))
    folder.create()
    return folder


def test_files_are_written_read_listed_and_removed(folder: Folder) -> None:
    folder.write("a", b"one")
    folder.write("a", b"other")
    folder.write_tables("b", [table(1, 2), table(3)], SCHEMA)
    assert folder.read("a") == b"other"
    assert folder.read("a", most_bytes=2) == b"ot"
    assert folder.read_table("b").to_pydict() == {"number": [1, 2, 3]}
    assert folder.names() == ["a", "b"]
    inner = folder / "c"
    assert inner.names() == []
    inner.create()
    inner.write("d", b"")
    assert folder.names() == ["a", "b", "c"]
    folder.remove("c")
    folder.remove("a")
    folder.remove("a")
    assert folder.names() == ["b"]


def test_failed_write_keeps_the_previous_file(folder: Folder) -> None:
    folder.write_tables("a", [table(1)], SCHEMA)

    def tables() -> Iterator[pa.Table]:
        yield table(2)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        folder.write_tables("a", tables(), SCHEMA)
    assert folder.read_table("a").to_pydict() == {"number": [1]}
    assert folder.names() == ["a"]


def in_another_process(script: str, folder: Folder) -> "subprocess.Popen[str]":
    """Start a script that has the folder in the variable `folder`."""
    script = f"from graftpop.run.storage import Folder\nfolder = Folder({folder.location!r})\n{script}"
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def test_full_disk_keeps_the_previous_file(folder: Folder) -> None:
    """A process limit on file size simulates the full disk: a write past it fails in the same way."""
    folder.write("a", b"good")
    with in_another_process(
        """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    folder.write("a", bytes(100_000))
except OSError as error:
    print(type(error).__name__)
""",
        folder,
    ) as full:
        output, _ = full.communicate(timeout=60)
    assert output == "OSError\n"
    assert folder.read("a") == b"good"
    assert folder.names() == ["a"]


@pytest.mark.parametrize(("values", "numbers"), [(["b"], [2]), (["c", "a"], [1, 3]), ([], []), (["z"], [])])
def test_read_table_selects_rows_and_columns(folder: Folder, values: list[str], numbers: list[int]) -> None:
    schema = pa.schema({"name": pa.string(), "number": pa.int64(), "other": pa.int64()})
    parts = [pa.table([[name], [number], [0]], schema=schema) for name, number in (("a", 1), ("b", 2), ("c", 3))]
    folder.write_tables("t", parts, schema)
    assert folder.read_table("t", only=("name", values), columns=["number"]).to_pydict() == {"number": numbers}


def test_damaged_table_is_refused_with_its_path(folder: Folder) -> None:
    folder.write("a.parquet", b"PAR1 no more")
    with pytest.raises(CheckpointError, match=r"run/a\.parquet: [^\n]*$"):
        folder.read_table("a.parquet")


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b=c", "a#b", "s3:x"])
def test_special_characters_in_a_path_are_kept(name: str, tmp_path: Path) -> None:
    inner = Folder(str(tmp_path / name)) / "inner"
    inner.create()
    inner.write("file", b"content")
    assert (tmp_path / name / "inner" / "file").read_bytes() == b"content"
    assert inner.location == str(tmp_path / name / "inner")


def test_masked_secret_of_a_recorded_location_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^s3://key:\*\*\*@bucket/run: .*AWS_SECRET_ACCESS_KEY"):
        Folder("s3://key:***@bucket/run")


def test_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: "):
        Folder(str(tmp_path / "gone")).check_is_there()


def test_returning_storage_is_retried_and_reported_once(folder: Folder) -> None:
    away = Path(folder.location).with_name("away")
    Path(folder.location).rename(away)
    threading.Timer(1.2, away.rename, (folder.location,)).start()
    causes: list[str] = []
    start = time.monotonic()
    retry_on_oserror(lambda: folder.write("a", b"one"), "the run cannot be written", causes.append)
    assert 1.0 < time.monotonic() - start < 10
    assert folder.read("a") == b"one"
    (cause,) = causes
    assert cause.startswith("the run cannot be written: ")


def test_absent_storage_is_an_error_after_the_timeout(folder: Folder) -> None:
    Path(folder.location).rmdir()
    with pytest.raises(StorageError, match=r"^a table: [^\n]* 0\.6 s; [^\n]*--resume$"):
        retry_on_oserror(lambda: folder.write("a", b"one"), "a table", timeout_s=0.6)


class GetTimeoutError(TimeoutError):
    """An OSError without errno, as Ray raises if a peer does not answer."""


@pytest.mark.parametrize("error", [ValueError("a bug"), GetTimeoutError("no answer"), TimeoutError()])
def test_non_storage_errors_are_not_retried(error: Exception) -> None:
    calls = []

    def act() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error), match=f"^{error}$"):
        retry_on_oserror(act, "a table")
    assert calls == [1]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(), "a table: OSError"),
        (OSError("\n"), "a table: OSError"),
        (OSError("disk full\nand more"), "a table: disk full"),
        (OSError(errno.ETIMEDOUT, "mount away"), f"a table: [Errno {errno.ETIMEDOUT}] mount away"),
    ],
)
def test_storage_error_is_retried_with_a_one_line_cause(error: OSError, cause: str) -> None:
    errors, causes = [error], list[str]()

    def act() -> str:
        if errors:
            raise errors.pop()
        return "written"

    assert retry_on_oserror(act, "a table", causes.append) == "written"
    assert causes == [cause]


def test_one_process_writes_at_a_time(folder: Folder) -> None:
    other = Folder(folder.location)
    with (
        folder.locked(".lock", wait_s=0),
        pytest.raises(StorageError, match=r"run: .*another process"),
        other.locked(".lock", wait_s=0.1),
    ):
        pass
    with other.locked(".lock", wait_s=0):
        pass


def test_lock_creates_its_folder(tmp_path: Path) -> None:
    with Folder(str(tmp_path / "a" / "b")).locked(".lock", wait_s=0):
        assert (tmp_path / "a" / "b" / ".lock").exists()


def test_killed_process_releases_its_lock(folder: Folder) -> None:
    with in_another_process(
        """
import time
with folder.locked(".lock", wait_s=0):
    print("held", flush=True)
    time.sleep(600)
""",
        folder,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    with folder.locked(".lock", wait_s=30):
        pass


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that are made; time passes in pauses alone."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(made))
    return made


def test_pauses_double_up_to_the_longest(pauses: list[float]) -> None:
    num_failures = 9

    def act() -> str:
        nonlocal num_failures
        num_failures -= 1
        if num_failures >= 0:
            raise OSError("away")
        return "written"

    assert retry_on_oserror(act, "a table") == "written"
    assert pauses == [0.5, 1, 2, 4, 8, 16, 20, 20, 20]


@pytest.mark.parametrize(("timeout_s", "num_pauses"), [(0, 0), (0.5, 1), (1.4, 1), (3.5, 3), (51.4, 6), (51.5, 7)])
def test_no_pause_ends_after_the_timeout(pauses: list[float], timeout_s: float, num_pauses: int) -> None:
    def act() -> None:
        assert len(pauses) < 20
        raise OSError("away")

    with pytest.raises(StorageError, match=rf" {timeout_s:g} s;"):
        retry_on_oserror(act, "a table", timeout_s=timeout_s)
    assert len(pauses) == num_pauses


def test_folder_of_an_object_store_lists_inner_names_once() -> None:
    folder = Folder("mock:///bucket/run")  # pyarrow's file system in memory, no local one
    inner = folder / "tune" / "records"
    inner.create()
    inner.write("a", b"")
    folder.write("b", b"")
    assert not folder.is_local
    assert folder.names() == ["b", "tune"]
    assert (folder / "tune").names() == ["records"]


@pytest.mark.parametrize(
    ("location", "inner"),
    [
        ("s3://bucket/run?region=eu-west-1&scheme=http", "s3://bucket/run/a/b?region=eu-west-1&scheme=http"),
        ("mock:///bucket/run/", "mock:///bucket/run/a/b"),
        ("file:///run/", "file:///run/a/b"),
    ],
)
def test_inner_folder_keeps_the_options_of_its_uri(location: str, inner: str) -> None:
    assert (Folder(location) / "a" / "b").location == inner


@pytest.mark.parametrize(
    ("uri", "bounded"),
    [
        ("gs://anonymous@bucket/run", "?retry_limit_seconds=30"),
        ("gcs://anonymous@bucket/run", "?retry_limit_seconds=30"),
        ("gs://anonymous@bucket/run?scheme=http", "&retry_limit_seconds=30"),
        ("gs://anonymous@bucket/run?retry_limit_seconds=1", ""),
    ],
)
def test_retries_of_google_are_limited_to_30_s_unless_the_uri_says_otherwise(uri: str, bounded: str) -> None:
    assert Folder(uri)._filesystem == FileSystem.from_uri(uri + bounded)[0]


class RefusedStream:
    """An upload that a full store refuses at its end."""

    def write(self, content: bytes) -> None:
        """Take a part of the content."""

    def close(self) -> None:
        raise OSError("507: the store is full")


class FullStore:
    """A store on this disk, for uploads of which there is no room."""

    def open_output_stream(self, path: str) -> RefusedStream:
        return RefusedStream()

    def __getattr__(self, name: str) -> Any:
        return getattr(LocalFileSystem(), name)


def test_object_stays_if_the_store_refuses_its_replacement(tmp_path: Path) -> None:
    folder: Any = Folder(str(tmp_path))
    folder.write("a", b"old")
    folder.is_local, folder._filesystem = False, FullStore()
    with pytest.raises(OSError, match="507"):
        folder.write("a", b"new")
    assert folder.read("a") == b"old"
