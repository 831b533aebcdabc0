"""What a run leaves behind: tables in Parquet, and the best network.

Each trial writes its own rounds, grafts and measures, whole rounds only, one file each, anew after every round; the
driver joins them into `rounds.parquet`, `grafts.parquet` and `measures.parquet`. A trial that goes on from a checkpoint
first drops what it had recorded after it, so that no row is missing or doubled. Every file is written under another
name and then renamed: who reads never sees half of one.
"""

import json
import posixpath
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from graftpop.errors import CheckpointError
from graftpop.population import Round

__all__ = ["GRAFTS_SCHEMA", "MEASURES_SCHEMA", "ROUNDS_SCHEMA", "RunFolder", "TrialRecords", "open_folder"]

ROUNDS_SCHEMA = pa.schema([
    ("trial_id", pa.string()),
    ("round", pa.int64()),
    ("epoch", pa.int64()),
    ("peer", pa.int64()),
    ("lr", pa.float64()),
    ("train_loss", pa.float64()),
    ("train_accuracy", pa.float64()),
    ("val_loss", pa.float64()),
    ("val_accuracy", pa.float64()),
    ("num_invalid_filters", pa.int64()),
    ("mean_entropy_nats", pa.float64()),
    ("images_per_s", pa.float64()),
    ("train_images", pa.int64()),
    ("train_s", pa.float64()),
    ("exchange_s", pa.float64()),
])
"""One row a trial, round and peer."""

GRAFTS_SCHEMA = pa.schema([
    ("trial_id", pa.string()),
    ("round", pa.int64()),
    ("receiver", pa.int64()),
    ("donor", pa.int64()),
    ("site", pa.string()),
    ("receiver_entropy_nats", pa.float64()),
    ("donor_entropy_nats", pa.float64()),
    ("alpha", pa.float64()),
    ("num_invalid_before", pa.int64()),
    ("num_invalid_after", pa.int64()),
])
"""One row a trial, round, receiver and site; the donor is -1 where it is the mean of several peers."""

MEASURES_SCHEMA = pa.schema([
    ("trial_id", pa.string()),
    ("round", pa.int64()),
    ("peer", pa.int64()),
    ("other", pa.int64()),
    ("measure", pa.string()),
    ("value", pa.float64()),
])
"""One row a trial, round, peer and measure; `other` is the second peer of those that compare two."""

_TABLES = {"rounds": ROUNDS_SCHEMA, "grafts": GRAFTS_SCHEMA, "measures": MEASURES_SCHEMA}
_TRIAL_COLUMNS = {"val_accuracy": pa.float64(), "test_accuracy": pa.float64(), "ensemble_test_accuracy": pa.float64(),
                  "num_peers": pa.int64(), "epochs": pa.int64(), "train_images": pa.int64(), "wall_s": pa.float64(),
                  "parameters": pa.int64(), "flops": pa.int64(), "removed_filters": pa.int64(),
                  "parameters_left": pa.int64(), "flops_left": pa.int64()}


def open_folder(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system and the path of a local folder or a URI such as s3://bucket/path.

    Raises:
        CheckpointError: no such kind of URI.
    """
    if "://" in location:
        try:
            filesystem, path = pafs.FileSystem.from_uri(location)
        except pa.ArrowInvalid as error:
            raise CheckpointError(f"{location}: must be a folder or a URI such as s3://bucket/path: {error}") from error
        return filesystem, path
    return pafs.LocalFileSystem(), str(Path(location).absolute())


def _write_whole(filesystem: pafs.FileSystem, path: str, content: bytes | Iterable[pa.Table],
                 schema: pa.Schema | None = None) -> None:
    """Write a file under another name and rename it, so that nobody reads half of it."""
    partial = f"{path}.partial"
    with filesystem.open_output_stream(partial) as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                for table in content:
                    writer.write_table(table)
    filesystem.move(partial, path)


def _read_whole(filesystem: pafs.FileSystem, path: str, schema: pa.Schema | None = None) -> pa.Table:
    """Return a table as one read of its file gave it.

    pyarrow opens a path twice, for the footer and for the data; in between another process may have renamed a newer
    file to it.
    """
    with filesystem.open_input_stream(path) as stream:
        return pq.read_table(pa.BufferReader(stream.read()), schema=schema)


class TrialRecords:
    """The rounds, grafts and measures of one trial, as the process that leads its population writes them.

    Args:
        location: folder or URI that all trials of the run share.
        trial_id: whose records these are.
    """

    def __init__(self, location: str, trial_id: str) -> None:
        self._filesystem, folder = open_folder(location)
        self._filesystem.create_dir(folder)
        self._trial_id = trial_id
        self._paths = {name: posixpath.join(folder, f"{trial_id}.{name}.parquet") for name in _TABLES}
        self._tables = {name: schema.empty_table() for name, schema in _TABLES.items()}

    def append(self, done: Round) -> None:
        """Add a round and write the trial's tables anew."""
        rounds = [{"trial_id": self._trial_id, **row} for row in done.peers]
        grafts = {"trial_id": [self._trial_id] * len(done.grafts.get("site", [])), **done.grafts}
        measures = [{"trial_id": self._trial_id, **row} for row in done.measures]
        self._add("rounds", pa.Table.from_pylist(rounds, ROUNDS_SCHEMA))
        if done.grafts:
            self._add("grafts", pa.Table.from_pydict(grafts, GRAFTS_SCHEMA))
        self._add("measures", pa.Table.from_pylist(measures, MEASURES_SCHEMA))
        self._write()

    def restart_after(self, round: int) -> None:
        """Take up what was recorded up to a round and drop what came after it."""
        for name, path in self._paths.items():
            if self._filesystem.get_file_info(path).type == pafs.FileType.File:
                table = _read_whole(self._filesystem, path, _TABLES[name])
                self._tables[name] = table.filter(pc.less_equal(table["round"], round))
        self._write()

    def _add(self, name: str, rows: pa.Table) -> None:
        self._tables[name] = pa.concat_tables([self._tables[name], rows]).combine_chunks()

    def _write(self) -> None:
        for name, table in self._tables.items():
            _write_whole(self._filesystem, self._paths[name], [table], _TABLES[name])


class RunFolder:
    """The folder of a run, local or at a URI, as the driver writes it.

    Args:
        location: folder or URI.
    """

    def __init__(self, location: str) -> None:
        self.location = location if "://" in location else str(Path(location).absolute())
        self._filesystem, self._path = open_folder(location)
        self._joined_at = 0.0
        self._join_took_s = 0.0

    @property
    def records(self) -> str:
        """Where the trials write their own records."""
        return f"{self.location}/tune/records"

    def exists(self, name: str = "") -> bool:
        """Return whether the folder, or something in it, is there."""
        found = self._filesystem.get_file_info(posixpath.join(self._path, name))
        return bool(found.type != pafs.FileType.NotFound)

    def create(self) -> None:
        """Make the folder.

        Raises:
            CheckpointError: it cannot be made.
        """
        try:
            self._filesystem.create_dir(self._path)
        except OSError as error:
            raise CheckpointError(f"--out {self.location}: cannot be made: {error}; choose another folder") from error

    def check_is_run(self) -> None:
        """Check that the folder is a run's.

        Raises:
            CheckpointError: something that every run has is missing.
        """
        for name in ("space.yaml", "run.json", "tune"):
            if not self.exists(name):
                raise CheckpointError(f"{self.location}: is no run, it has no {name}; give a folder that "
                                      f"`python -m graftpop.tune` wrote, such as runs/NAME-TIME")

    def read_table(self, name: str) -> pa.Table:
        """Return one of the run's tables: trials, rounds, grafts or measures; an empty one where none is written yet.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = posixpath.join(self._path, f"{name}.parquet")
        if not self.exists(f"{name}.parquet"):
            return _TABLES.get(name, pa.schema({"trial_id": pa.string(), **_TRIAL_COLUMNS})).empty_table()
        try:
            return _read_whole(self._filesystem, path)
        except (pa.ArrowInvalid, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read as Parquet: {error}") from error

    def read_text(self, name: str) -> str:
        """Return the content of a text file of the folder."""
        with self._filesystem.open_input_stream(posixpath.join(self._path, name)) as stream:
            return str(stream.read().decode("utf-8"))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the folder."""
        _write_whole(self._filesystem, posixpath.join(self._path, name), text.encode("utf-8"))

    def write_trials(self, rows: list[dict[str, Any]], searched: Mapping[str, pa.DataType]) -> None:
        """Write `trials.parquet`.

        Args:
            rows: one a trial.
            searched: the searched keys and what their columns hold.
        """
        schema = pa.schema({"trial_id": pa.string(), "status": pa.string(), **searched, **_TRIAL_COLUMNS})
        text = [key for key, kind in searched.items() if kind == pa.string()]
        rows = [row | {key: None if row[key] is None else str(row[key]) for key in text} for row in rows]
        _write_whole(self._filesystem, posixpath.join(self._path, "trials.parquet"),
                     [pa.Table.from_pylist(rows, schema)], schema)

    def join_records(self, trial_ids: Iterable[str], *, now: bool) -> None:
        """Write `rounds.parquet`, `grafts.parquet` and `measures.parquet` from what the trials have written.

        Args:
            trial_ids: in the order in which they shall stand.
            now: False leaves it for later if it would take more than a twentieth of the time.
        """
        if not now and time.monotonic() - self._joined_at < 20 * self._join_took_s:
            return
        start = time.monotonic()
        trials = list(trial_ids)
        for name, schema in _TABLES.items():
            parts = (f"{self._path}/tune/records/{trial_id}.{name}.parquet" for trial_id in trials)
            tables = (_read_whole(self._filesystem, part, schema) for part in parts
                      if self._filesystem.get_file_info(part).type == pafs.FileType.File)
            _write_whole(self._filesystem, posixpath.join(self._path, f"{name}.parquet"), tables, schema)
        self._joined_at = time.monotonic()
        self._join_took_s = self._joined_at - start

    def write_best(self, peer_file: bytes, metrics: Mapping[str, Any]) -> None:
        """Write `best/`: the weights, what is needed to rebuild and feed the network, and how good it is.

        Args:
            peer_file: a peer's file of a checkpoint.
            metrics: of the trial and the peer.

        Raises:
            CheckpointError: the file is not one of a peer.
        """
        from graftpop.learner.network_file import split_peer_file

        weights, card = split_peer_file(peer_file)
        folder = posixpath.join(self._path, "best")
        self._filesystem.create_dir(folder)
        for name, content in (("config.json", card), ("metrics.json", metrics)):
            _write_whole(self._filesystem, f"{folder}/{name}", json.dumps(content, indent=2).encode("utf-8"))
        _write_whole(self._filesystem, f"{folder}/model.safetensors", weights)
