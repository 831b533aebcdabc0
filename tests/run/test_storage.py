"""Files that are there as a whole or not at all, and patience while storage is away."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from graftpop.errors import CheckpointError, StorageError
from graftpop.run.storage import Folder, retry_on_oserror

SCHEMA = pa.schema([("number", pa.int64())])


def table(*numbers: int) -> pa.Table:
    return pa.Table.from_pydict({"number": list(numbers)}, SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(str(tmp_path / "run"))
    made.create()
    return made


def test_what_is_written_is_read_again_and_nothing_else_lies_beside_it(folder: Folder) -> None:
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


def test_a_writing_that_fails_leaves_what_was_there_and_no_part_of_the_new(folder: Folder) -> None:
    folder.write_tables("a", [table(1)], SCHEMA)

    def tables() -> Iterator[pa.Table]:
        yield table(2)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        folder.write_tables("a", tables(), SCHEMA)
    assert folder.read_table("a").to_pydict() == {"number": [1]}
    assert folder.names() == ["a"]


def in_another_process(script: str, folder: Folder) -> "subprocess.Popen[str]":
    """Start a script that finds the folder under the name `folder`."""
    script = f"from graftpop.run.storage import Folder\nfolder = Folder({folder.location!r})\n{script}"
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def test_on_a_full_disk_the_previous_file_stays(folder: Folder) -> None:
    """A limit of the process on the size of files stands for the disk: writing past it fails as it does there."""
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
def test_the_rows_and_columns_that_are_wanted_are_read(folder: Folder, values: list[str], numbers: list[int]) -> None:
    schema = pa.schema({"name": pa.string(), "number": pa.int64(), "other": pa.int64()})
    parts = [pa.table([[name], [number], [0]], schema=schema) for name, number in (("a", 1), ("b", 2), ("c", 3))]
    folder.write_tables("t", parts, schema)
    assert folder.read_table("t", only=("name", values), columns=["number"]).to_pydict() == {"number": numbers}


def test_a_damaged_table_is_named(folder: Folder) -> None:
    folder.write("a.parquet", b"PAR1 no more")
    with pytest.raises(CheckpointError, match=r"run/a\.parquet: cannot be read as Parquet: [^\n]*$"):
        folder.read_table("a.parquet")


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b=c", "a#b", "s3:x"])
def test_a_path_is_taken_as_it_stands(name: str, tmp_path: Path) -> None:
    inner = Folder(str(tmp_path / name)) / "inner"
    inner.create()
    inner.write("file", b"content")
    assert (tmp_path / name / "inner" / "file").read_bytes() == b"content"
    assert inner.location == str(tmp_path / name / "inner")


def test_a_folder_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: is not there"):
        Folder(str(tmp_path / "gone")).check_is_there()


def test_storage_that_is_away_for_a_while_is_waited_for_and_told_once(folder: Folder) -> None:
    away = Path(folder.location).with_name("away")
    Path(folder.location).rename(away)
    threading.Timer(1.2, away.rename, (folder.location,)).start()
    told: list[str] = []
    start = time.monotonic()
    retry_on_oserror(lambda: folder.write("a", b"one"), "the run cannot be written", told.append)
    assert 1.0 < time.monotonic() - start < 10
    assert folder.read("a") == b"one"
    (cause,) = told
    assert cause.startswith("the run cannot be written: ")


def test_storage_that_stays_away_is_an_error_that_says_what_to_do(folder: Folder) -> None:
    Path(folder.location).rmdir()
    with pytest.raises(
        StorageError,
        match=r"^a table: .*; tried for 0\.6 s; make room or bring the storage back, "
        r"then go on with --resume$",
    ):
        retry_on_oserror(lambda: folder.write("a", b"one"), "a table", timeout_s=0.6)


def test_what_is_no_fault_of_storage_is_not_tried_again() -> None:
    calls = []

    def act() -> None:
        calls.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        retry_on_oserror(act, "a table")
    assert calls == [1]


def test_one_process_writes_at_a_time(folder: Folder) -> None:
    other = Folder(folder.location)
    with (
        folder.locked(".lock", wait_s=0),
        pytest.raises(StorageError, match="run: is being written by another process; wait until it has ended"),
        other.locked(".lock", wait_s=0.1),
    ):
        pass
    with other.locked(".lock", wait_s=0):
        pass


def test_a_process_that_was_killed_holds_no_lock(folder: Folder) -> None:
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
