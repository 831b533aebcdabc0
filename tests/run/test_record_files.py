"""Files of records: few of them and little work per trial, no row missing or doubled, damage noticed."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from graftpop.run import record_files
from graftpop.run.record_files import DamagedFile, RecordTable
from graftpop.run.storage import Folder

SCHEMA = pa.schema([("trial_id", pa.string()), ("round", pa.int64())])


class CountingFolder(Folder):
    """A folder that counts its operations on files."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.num_opened = self.num_written = self.bytes_written = 0

    def open(self, name: str) -> pa.NativeFile:
        self.num_opened += 1
        return super().open(name)

    def write(self, name: str, content: bytes) -> None:
        self.num_written += 1
        self.bytes_written += len(content)
        super().write(name, content)


def trial_id(number: int) -> str:
    return f"{number:05}"


def places_of(num_trials: int) -> dict[str, int]:
    return {trial_id(number): number for number in range(num_trials)}


def write(files: RecordTable, number: int, num_rows: int = 2) -> None:
    rows = [{"trial_id": trial_id(number), "round": round} for round in range(1, num_rows + 1)]
    files.write(trial_id(number), pa.Table.from_pylist(rows, SCHEMA))


def rows_of(files: RecordTable, num_trials: int) -> list[tuple[str, int]]:
    places = places_of(num_trials)
    tables = files.merged(files.sources(places, set()), places)
    return [(row["trial_id"], row["round"]) for table in tables for row in table.to_pylist()]


def expected(numbers: Sequence[int], num_rows: int = 2) -> list[tuple[str, int]]:
    return [(trial_id(number), round) for number in numbers for round in range(1, num_rows + 1)]


def finish_trials(files: RecordTable, numbers: Sequence[int]) -> None:
    """Let trials finish one after the other, with a fold after each."""
    for number in numbers:
        write(files, number)
        places = places_of(number + 1)
        files.fold(places, places, set())


@pytest.fixture
def folder(tmp_path: Path) -> CountingFolder:
    return CountingFolder(str(tmp_path))


@pytest.fixture
def files(folder: CountingFolder) -> RecordTable:
    return RecordTable(folder, "rounds", SCHEMA)


def test_work_per_trial_and_files_do_not_grow_with_the_trials(folder: CountingFolder, files: RecordTable) -> None:
    work = []
    for first in range(0, 512, 128):
        folder.num_opened = folder.num_written = folder.bytes_written = 0
        finish_trials(files, range(first, first + 128))
        work.append((folder.num_opened, folder.num_written, folder.bytes_written))
        assert len(folder.names()) < record_files.TRIALS_PER_FOLD + 8
    opened, written, num_bytes = zip(*work, strict=True)
    assert max(opened) <= 1.2 * opened[0]
    assert max(written) == written[0] == 128 + 128 // record_files.TRIALS_PER_FOLD
    assert max(num_bytes) <= 1.2 * num_bytes[0]
    assert rows_of(files, 512) == expected(range(512))


def test_rows_are_in_the_order_of_trials_however_they_finish(files: RecordTable, tmp_path: Path) -> None:
    places = places_of(41)
    for number in (*range(0, 40, 2), *range(39, 0, -2)):
        write(files, number)
        files.fold([trial for trial in places if trial != trial_id(7)], places, set())
    assert rows_of(files, 41) == expected(range(40))
    assert "00007.rounds.parquet" in {path.name for path in tmp_path.iterdir()}  # it still runs


def test_large_parts_are_left_alone(files: RecordTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "MAX_PART_BYTES", 1)
    finish_trials(files, range(48))
    assert len(list(tmp_path.glob("finished-*"))) == 3
    assert rows_of(files, 48) == expected(range(48))


@pytest.mark.parametrize("survives", range(0, 18, 3))
def test_killed_fold_leaves_no_row_missing_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """A fold writes one file and removes 17; the process dies after some of these steps."""
    finish_trials(RecordTable(Folder(str(tmp_path)), "rounds", SCHEMA), range(31))
    files = RecordTable(Folder(str(tmp_path)), "rounds", SCHEMA)
    write(files, 31)
    steps = []

    def counted(act: Callable[..., None]) -> Callable[..., None]:
        def do(self: Folder, *arguments: object) -> None:
            steps.append(arguments)
            if len(steps) > survives:
                raise KeyboardInterrupt
            act(self, *arguments)

        return do

    with monkeypatch.context() as patched:
        for name in ("write", "remove"):
            patched.setattr(Folder, name, counted(getattr(Folder, name)))
        with pytest.raises(KeyboardInterrupt):
            files.fold(places_of(32), places_of(32), set())
    files = RecordTable(Folder(str(tmp_path)), "rounds", SCHEMA)
    assert rows_of(files, 32) == expected(range(32))
    finish_trials(files, range(32, 64))
    assert rows_of(files, 64) == expected(range(64))
    assert len(list(tmp_path.iterdir())) <= record_files.TRIALS_PER_FOLD + 2


def test_trial_that_runs_again_replaces_its_folded_rows(files: RecordTable) -> None:
    """Its rows are first in an old part, then in its own file, then in a newer part beside the old one."""
    finish_trials(files, range(64))
    assert files.read("00003").num_rows == 2
    write(files, 3, num_rows=5)
    assert files.read("00003").num_rows == 5
    for num_trials in (64, 79, 160):
        finish_trials(files, range(64, num_trials))
        assert rows_of(files, num_trials) == expected(range(3)) + expected([3], 5) + expected(range(4, num_trials))


def test_fold_keeps_rows_of_trials_that_the_study_does_not_know(files: RecordTable) -> None:
    """A study that lost its list of trials numbers them anew; they resume from their checkpoints one by one."""
    finish_trials(files, range(16))
    for number in range(20, 36):
        write(files, number)
    known = places_of(4) | {trial_id(number): number for number in range(20, 36)}
    files.fold(known, known, set())
    assert rows_of(files, 36) == expected([*range(16), *range(20, 36)])


def test_every_change_of_a_byte_is_noticed(files: RecordTable, tmp_path: Path) -> None:
    write(files, 0)
    whole = files.read("00000")
    path = tmp_path / "00000.rounds.parquet"
    content = path.read_bytes()
    key = range(found := content.rindex(record_files.HASH), found + len(record_files.HASH))
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        if place in key:  # the content is read as that of an earlier version, without a hash
            assert files.read("00000").equals(whole)
        else:
            with pytest.raises(DamagedFile, match=re.escape(f"{path}: damaged: ")):
                files.read("00000")


@pytest.mark.parametrize("length", [0, 3, 100, -1])
def test_cut_file_is_noticed(files: RecordTable, tmp_path: Path, length: int) -> None:
    write(files, 0)
    path = tmp_path / "00000.rounds.parquet"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFile, match=re.escape(f"{path}: damaged: ")):
        files.read("00000")


def test_file_of_an_earlier_version_is_read(files: RecordTable, folder: CountingFolder) -> None:
    """It has no hash, and its table may have other columns."""
    table = pa.table({"round": [1, 2], "trial_id": ["00000"] * 2, "other": [0, 0]})
    folder.write_tables("00000.rounds.parquet", [table], table.schema)
    assert files.read("00000").to_pydict() == {"trial_id": ["00000"] * 2, "round": [1, 2]}
