"""The folder of a run: its tables, its text files and the best network.

The driver joins the files of all trials (`trial_records.py`) into `rounds.parquet`, `grafts.parquet`,
`diagnostics.parquet` and `events.parquet`, and folds those of finished trials into fewer ones (`record_files.py`).
"""

import json
import logging
import posixpath
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from graftpop.errors import CheckpointError
from graftpop.metrics import Metric
from graftpop.population import Event
from graftpop.run.record_files import DamagedFile, large_tables, record_tables
from graftpop.run.schemas import schemas
from graftpop.run.storage import Folder, unreachable
from graftpop.run.throttle import Throttle
from graftpop.run.trial_records import TrialRecords
from graftpop.settings.task import METRICS

__all__ = ["RunFolder"]

SHARE_OF_JOINING = 0.01
"""Largest share of the driver's time that joining may take."""

logger = logging.getLogger("graftpop")


class RunFolder:
    """The folder of a run, local or at a URI, as the driver reads and writes it.

    Args:
        location: folder or URI.
        metrics: metrics of the run's task; they decide the columns of its tables.

    Attributes:
        location: absolute path or URI.
        shown: the location with its secrets masked, for output and records.
        local_path: the path on this machine; None in an object store.
        name: last part of the location, the run's name in trackers and in Optuna's storage.
        metrics: metrics of the run's task.
    """

    def __init__(self, location: str, metrics: Sequence[Metric] = METRICS["classification"]) -> None:
        self.metrics = metrics
        self._folder = Folder(location)
        self.location, self.shown = self._folder.location, self._folder.shown
        self.local_path = self._folder.local_path
        self.name = posixpath.basename(self.location.partition("?")[0])
        self._joining = Throttle(SHARE_OF_JOINING)
        self._schemas = schemas(metrics)
        self._records = record_tables(self.of_trials("records"), metrics)
        self._warned: set[str] = set()

    def locked(self) -> AbstractContextManager[None]:
        """Lock the run against other processes inside the block.

        Raises:
            StorageError: another process is writing it.
        """
        return (self._folder / "tune").locked(".lock", wait_s=0)

    def check_is_there(self) -> None:
        """Check that the folder can be reached.

        Raises:
            FileNotFoundError: it does not exist.
        """
        self._folder.check_is_there()

    def of_trials(self, name: str) -> Folder:
        """Return a folder that trials write: `records`, or `checkpoints` with one folder per trial."""
        return self._folder / "tune" / name

    def exists(self, name: str = "") -> bool:
        """Return whether the folder, or the named entry in it, exists.

        Raises:
            StorageError: the storage cannot be reached.
        """
        try:
            return self._folder.exists(name)
        except OSError as error:
            raise unreachable(self.location, error) from error

    def create(self) -> None:
        """Create the folder.

        Raises:
            CheckpointError: it cannot be created.
        """
        try:
            self._folder.create()
        except OSError as error:
            raise CheckpointError(
                f"--out {self.location}: cannot be created: {error}; choose another folder"
            ) from error

    def check_is_run(self) -> None:
        """Check that the folder holds a run, even one whose driver was killed before its first trial.

        Raises:
            CheckpointError: an entry that every run has is missing.
        """
        for names in (("space.yaml",), ("tune", "run.json")):
            if not any(map(self.exists, names)):
                raise CheckpointError(
                    f"{self.location}: is no run, it has no {' or '.join(names)}; give a folder that "
                    f"`python -m graftpop.tune` wrote, such as runs/NAME-TIME"
                )

    def read_table(
        self, name: str, *, trial_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return one of the run's tables; an empty one if it is not written yet.

        Args:
            name: trials, rounds, grafts, diagnostics or events.
            trial_ids: the trials to read; None: all. A trial's rows are adjacent, so others are not read from disk.
            columns: names of the columns to read; None: all.

        Raises:
            CheckpointError: the file is damaged.
            StorageError: the storage cannot be reached.
        """
        if not self.exists(f"{name}.parquet"):
            return self._schemas[name].empty_table()
        return self._folder.read_table(
            f"{name}.parquet", only=None if trial_ids is None else ("trial_id", trial_ids), columns=columns
        )

    def read_text(self, name: str) -> str:
        """Return the content of a text file in UTF-8."""
        return self._folder.read(name).decode("utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in UTF-8."""
        self._folder.write(name, text.encode("utf-8"))

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it exists."""
        self._folder.remove(name)

    def write_trials(self, rows: list[dict[str, Any]], searched: Mapping[str, pa.DataType]) -> None:
        """Write `trials.parquet`.

        Args:
            rows: one per trial.
            searched: column types of the searched keys; values of a text column are converted to text.
        """
        trial_id, *figures = self._schemas["trials"]
        schema = pa.schema([trial_id, ("status", pa.string()), *searched.items(), *figures])
        text = [key for key, kind in searched.items() if kind == pa.string()]
        rows = [row | {key: None if row.get(key) is None else str(row[key]) for key in text} for row in rows]
        self._folder.write_tables("trials.parquet", [pa.Table.from_pylist(rows, schema)], schema)

    @property
    def is_joining_due(self) -> bool:
        """Whether `join_records` joins now; False while joining would take more than 1 % of the time."""
        return self._joining.is_due

    def join_records(self, trial_ids: Sequence[str], *, now: bool, finished: Collection[str] = ()) -> None:
        """Write `rounds.parquet`, `grafts.parquet`, `diagnostics.parquet` and `events.parquet` from the trials' files.

        Rows of damaged files are kept as they are in the joined tables. A damaged file of a finished trial is replaced
        by these rows, with an event.

        Args:
            trial_ids: IDs in the order of the rows.
            now: whether to join even if it is not due.
            finished: trials that nothing writes any longer.
        """
        if now or self.is_joining_due:
            self._joining.do(lambda: self._for_each_table(self._join, trial_ids, finished))

    def fold_records(self, trial_ids: Sequence[str], finished: Collection[str]) -> None:
        """Move the rows of finished trials from their own files into few, see `RecordTable.fold`.

        Args:
            trial_ids: IDs in the order of the rows.
            finished: trials that nothing writes any longer.
        """
        self._for_each_table(
            lambda name, places, damaged: self._records[name].fold(finished, places, damaged), trial_ids, finished
        )

    def _join(self, name: str, places: Mapping[str, int], damaged: set[str]) -> None:
        files = self._records[name]
        sources = files.sources(places, damaged)
        missing = places.keys() - {trial for source in sources for trial in source.trials}
        kept = [self.joined_rows(name, sorted(missing))] if damaged else []
        self._folder.write_tables(
            f"{name}.parquet", large_tables(files.merged(sources, places, kept)), self._schemas[name]
        )

    def _for_each_table(
        self,
        act: Callable[[str, Mapping[str, int], set[str]], None],
        trial_ids: Sequence[str],
        finished: Collection[str],
    ) -> None:
        """Call `act` with each table, the places of all trials and the damaged files, again after each damage."""
        places = {trial_id: place for place, trial_id in enumerate(trial_ids)}
        for name, files in self._records.items():  # events last, because damage to the others adds some
            damaged = set[str]()
            while True:
                try:
                    act(name, places, damaged)
                    break
                except DamagedFile as error:
                    own = next((trial for trial in finished if files.file_of(trial) == error.file), None)
                    if own is None or error.file in self._warned:
                        damaged.add(error.file)
                    else:
                        self._repair(own)
                    if error.file not in self._warned:
                        logger.warning("%s; its rows are taken from %s.parquet, as far as that has them", error, name)
                    self._warned.add(error.file)

    def _repair(self, trial_id: str) -> None:
        """Replace the damaged files of a finished trial, with an event for each."""
        records = TrialRecords(self.of_trials("records"), trial_id, self.metrics)
        for cause in records.restart_after(sys.maxsize, lambda name: self.joined_rows(name, [trial_id])):
            records.add_event(Event(records.last_round, None, "records_damaged", cause))
        records.write()

    def records_of(self, name: str, trial_id: str) -> pa.Table:
        """Return a trial's own rows, which the joined table may not have yet."""
        try:
            return self._records[name].read(trial_id)
        except DamagedFile:
            return self.joined_rows(name, [trial_id])

    def joined_rows(self, name: str, trial_ids: Sequence[str]) -> pa.Table:
        """Return the rows of some trials in a joined table; none if that is damaged."""
        try:
            return self.read_table(name, trial_ids=trial_ids)
        except CheckpointError:
            return self._schemas[name].empty_table()

    def write_best(self, peer_file: bytes, metrics: Mapping[str, Any]) -> None:
        """Write `best/`: weights, model card and metrics of the best network.

        `model.safetensors` has the card and the metrics in its header too, so a reader that opens this one file gets a
        consistent set even while another network replaces it. `config.json` and `metrics.json` are copies for readers.

        Args:
            peer_file: a peer's file of a checkpoint.
            metrics: metrics of the trial and the peer, as JSON values.

        Raises:
            CheckpointError: the content is not a peer's file.
        """
        from graftpop.models.network_file import split_peer_file

        weights, model_card = split_peer_file(peer_file)
        card = model_card.to_dict()
        best = self._folder / "best"
        best.create()
        for name, content in (("config.json", card), ("metrics.json", metrics)):
            best.write(name, json.dumps(content, indent=2).encode("utf-8"))
        best.write("model.safetensors", _with_metadata(weights, {"model_card": card, "metrics": metrics}))


def _with_metadata(weights: bytes, entries: Mapping[str, Any]) -> bytes:
    """Return a safetensors file with more metadata in its header; equal arguments give equal bytes.

    `safetensors.torch.save` writes several entries in random order.
    """
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    header["__metadata__"] |= {name: json.dumps(entry) for name, entry in entries.items()}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + weights[8 + length :]
