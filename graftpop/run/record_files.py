"""The files of one table of records: one per trial, and parts with the rows of many finished trials.

Files of finished trials are folded into a part, and parts into larger parts, so the number of files and the work per
trial stay small however many trials there are. Every file has its own hash in its footer; a part also lists its trials.
If several files have rows of a trial, its own file counts, else the newest part. So a fold that is killed halfway
leaves nothing missing or doubled.
"""

import hashlib
import heapq
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from graftpop.errors import CheckpointError, one_line
from graftpop.metrics import Metric
from graftpop.run.schemas import schemas
from graftpop.run.storage import Folder

__all__ = ["DamagedFile", "RecordTable", "Source", "large_tables", "record_tables"]

TRIALS_PER_FOLD = 16
"""Number of finished trials with their own files at which these files are folded."""

MAX_PART_BYTES = 64 * 2**20
"""A part of this size or more is not folded again, because a part is built in memory."""

ROWS_PER_GROUP = 20_000
CHUNK_BYTES = 2**20

HASH: Final = b"graftpop.blake2b"
HASH_DIGITS: Final = 32
TRIALS: Final = b"graftpop.trials"


class DamagedFile(CheckpointError):
    """A file of records is cut short or changed.

    Args:
        file: its name.
        location: its path or URI.
        cause: the cause.
    """

    def __init__(self, file: str, location: str, cause: object) -> None:
        super().__init__(f"{location}: damaged: {one_line(str(cause))}")
        self.file = file


class Source(NamedTuple):
    """A file, and the trials whose rows are read from it."""

    file: str
    trials: set[str]


class RecordTable:
    """One table of records in the files of all trials.

    Args:
        folder: folder that all trials of the run share.
        name: name of the table, in file names.
        schema: schema of the table.

    Attributes:
        schema: schema of the table.
    """

    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        self._folder, self._name, self.schema = folder, name, schema
        self._is_part = re.compile(rf"finished-(\d+)\.{name}\.parquet").fullmatch
        self._trials_of: dict[str, set[str]] = {}  # of parts; a part never changes

    def file_of(self, trial_id: str) -> str:
        """Return the name of a trial's own file."""
        return f"{trial_id}.{self._name}.parquet"

    def write(self, trial_id: str, rows: pa.Table) -> None:
        """Write a trial's own file.

        Raises:
            OSError: it cannot be written now.
        """
        self._write(self.file_of(trial_id), [rows], [trial_id])

    def read(self, trial_id: str) -> pa.Table:
        """Return a trial's rows, from its own file or else from a part.

        Raises:
            DamagedFile: a file is damaged.
            OSError: a file cannot be read.
        """
        own = self.file_of(trial_id)
        sources = [Source(own, {trial_id})]
        if not self._folder.exists(own):
            sources = [part for part in self.sources([], set()) if trial_id in part.trials]
        return pa.concat_tables([self.schema.empty_table(), *self.merged(sources, {trial_id: 0})])

    def sources(self, trial_ids: Iterable[str], without: set[str]) -> list[Source]:
        """Return all files with the trials whose rows are read from each.

        Args:
            trial_ids: trials that may have files of their own.
            without: names of files to leave out.

        Raises:
            DamagedFile: a part is damaged.
        """
        names = set(self._folder.names()) - without
        found = [Source(file, {trial}) for trial in trial_ids if (file := self.file_of(trial)) in names]
        taken = {trial for source in found for trial in source.trials}
        for part in sorted(filter(self._is_part, names), reverse=True):  # newest first
            if part not in self._trials_of:
                with self._opened(part) as file:
                    self._trials_of[part] = set(json.loads((file.metadata.metadata or {}).get(TRIALS, b"[]")))
            found.append(Source(part, self._trials_of[part] - taken))
            taken |= self._trials_of[part]
        return found

    def merged(
        self, sources: Iterable[Source], places: Mapping[str, int], kept: Iterable[pa.Table] = ()
    ) -> Iterator[pa.Table]:
        """Yield the rows of trials in the order of their places; a trial without a place is left out.

        Args:
            sources: files to read.
            places: place of each trial.
            kept: tables with further rows, in the same order.

        Raises:
            DamagedFile: a file is damaged.
            OSError: a file cannot be read.
        """
        streams = [_by_trial(self._row_groups(file), trials, places) for file, trials in sources]
        streams.append(_by_trial((_with_columns(table, self.schema) for table in kept), places.keys(), places))
        return (table for _, table in heapq.merge(*streams, key=lambda entry: entry[0]))

    def fold(self, finished: Iterable[str], places: Mapping[str, int], without: set[str]) -> None:
        """Move the rows of finished trials from their own files into a part, once there are enough of them.

        Parts with fewer trials are merged into it, so each row is rewritten a logarithmic number of times.

        Args:
            finished: trials that nothing writes any longer.
            places: place of each trial in the order of rows.
            without: names of damaged files, which are left as they are.

        Raises:
            DamagedFile: another file is damaged; nothing has changed.
        """
        sources = self.sources(places, without)
        files = {self.file_of(trial) for trial in finished} & {source.file for source in sources}
        if len(files) < TRIALS_PER_FOLD:
            return
        number, parts = len(files), [source for source in sources if self._is_part(source.file)]
        for file, trials in sorted(parts, key=lambda part: len(part.trials)):
            if len(trials) <= number and self._folder.size(file) < MAX_PART_BYTES:
                files.add(file)
                number += len(trials)
        folded = [source for source in sources if source.file in files]
        # a study that lost its list of trials does not know all of a part's trials; their rows are kept
        folded_trials = sorted(
            (trial for source in folded for trial in source.trials),
            key=lambda trial: (places.get(trial, len(places)), trial),
        )
        rows = self.merged(folded, {trial: place for place, trial in enumerate(folded_trials)})
        newest = max((int(found[1]) for found in map(self._is_part, self._folder.names()) if found), default=0)
        self._write(f"finished-{newest + 1:06}.{self._name}.parquet", large_tables(rows), folded_trials)
        for file in files:
            self._folder.remove(file)

    def keep_aside(self, file: str) -> None:
        """Copy a damaged file that is about to be replaced."""
        self._folder.write(f"{file}.damaged", self._folder.read(file))

    def _write(self, file: str, tables: Iterable[pa.Table], trials: Sequence[str]) -> None:
        stream = pa.BufferOutputStream()
        schema = self.schema.with_metadata({HASH: "0" * HASH_DIGITS, TRIALS: json.dumps(trials)})
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        content = stream.getvalue().to_pybytes()
        place = _place_of_hash(content)
        digest = hashlib.blake2b(content, digest_size=HASH_DIGITS // 2).hexdigest().encode()
        self._folder.write(file, content[:place] + digest + content[place + HASH_DIGITS :])

    def _row_groups(self, name: str) -> Iterator[pa.Table]:
        with self._opened(name) as file:
            for number in range(file.num_row_groups):
                try:
                    table = file.read_row_group(number)
                except (pa.ArrowException, OSError) as error:
                    raise DamagedFile(name, (self._folder / name).location, error) from error
                yield _with_columns(table, self.schema)

    def _opened(self, name: str) -> pq.ParquetFile:
        """Open a file after checking its hash; a file of an earlier version has none.

        Raises:
            DamagedFile: it is damaged.
            OSError: it cannot be read.
        """
        file = self._folder.open(name)
        if not _equals_its_hash(file):
            raise DamagedFile(name, (self._folder / name).location, "its content differs from its hash")
        try:
            return pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise DamagedFile(name, (self._folder / name).location, error) from error


def record_tables(folder: Folder, metrics: Sequence[Metric]) -> dict[str, RecordTable]:
    """Return the tables that trials write, by name.

    Args:
        folder: folder that all trials of the run share.
        metrics: metrics of the task.
    """
    return {name: RecordTable(folder, name, schema) for name, schema in schemas(metrics).items() if name != "trials"}


def _by_trial(
    tables: Iterable[pa.Table], trials: Collection[str], places: Mapping[str, int]
) -> Iterator[tuple[int, pa.Table]]:
    """Yield place and rows of some trials, from tables in which each trial's rows are adjacent."""
    for table in tables:
        start = 0
        for counted in pc.value_counts(table["trial_id"]).to_pylist():
            trial, number = counted["values"], counted["counts"]
            if trial in trials and trial in places:
                yield places[trial], table.slice(start, number)
            start += number


def large_tables(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of at least `ROWS_PER_GROUP` rows, except for the last."""
    held: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        held.append(table)
        num_rows += table.num_rows
        if num_rows >= ROWS_PER_GROUP:
            yield pa.concat_tables(held)
            held, num_rows = [], 0
    if held:
        yield pa.concat_tables(held)


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema; those that an earlier version did not write are empty."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    empty = pa.nulls(table.num_rows)
    return pa.table(
        [(table[field.name] if field.name in table.column_names else empty).cast(field.type) for field in schema],
        schema,
    )


def _place_of_hash(footer: bytes) -> int:
    """Return where the digits of the hash start; -1 without a hash.

    A footer has the length of a value, one byte for the type and one for the length, between a key and its value.
    """
    found = footer.rfind(HASH)
    return found if found < 0 else found + len(HASH) + 2


def _equals_its_hash(file: pa.NativeFile) -> bool:
    """Return whether a file without its hash's digits has that hash; a file that has none is accepted."""
    size: int = file.size()
    file.seek(max(0, size - 8))
    start = max(0, size - 8 - int.from_bytes(file.read(4), "little"))
    file.seek(start)
    footer: bytes = file.read()
    place = _place_of_hash(footer)
    if place < 0:
        return True
    digest = hashlib.blake2b(digest_size=HASH_DIGITS // 2)
    file.seek(0)
    for done in range(0, start, CHUNK_BYTES):
        digest.update(file.read(min(CHUNK_BYTES, start - done)))
    digest.update(footer[:place] + b"0" * HASH_DIGITS + footer[place + HASH_DIGITS :])
    return footer[place : place + HASH_DIGITS] == digest.hexdigest().encode()
