"""The records of one trial: its rounds, grafts, diagnostics and events.

After every round, each trial rewrites its own four files. A trial that resumes from a checkpoint first drops the rows
after it, so that no row is missing or doubled; all events are kept. If a file is damaged, its rows are read from the
joined table instead, as far as that has them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.metrics import Metric
from graftpop.population import Event, Round
from graftpop.run.record_files import DamagedFile, record_tables
from graftpop.run.storage import Folder

__all__ = ["TrialRecords"]


class TrialRecords:
    """The rounds, grafts, diagnostics and events of one trial, written by the process that leads its population.

    Args:
        folder: folder that all trials of the run share.
        trial_id: trial ID, in file names and in every row.
        metrics: metrics of the task.
    """

    def __init__(self, folder: Folder, trial_id: str, metrics: Sequence[Metric]) -> None:
        self._folder = folder
        self._trial_id = trial_id
        self._files = record_tables(folder, metrics)
        self._tables = {name: files.schema.empty_table() for name, files in self._files.items()}
        self._num_written_events = 0

    def add_round(self, done: Round) -> None:
        """Add a round; `write` makes it visible to other processes."""
        rounds = [{"trial_id": self._trial_id, **row} for row in done.peers]
        grafts = {"trial_id": [self._trial_id] * len(done.grafts.get("site", [])), **done.grafts}
        diagnostics = [{"trial_id": self._trial_id, **row} for row in done.diagnostics]
        self._add("rounds", pa.Table.from_pylist(rounds, self._files["rounds"].schema))
        if done.grafts:
            self._add("grafts", pa.Table.from_pydict(grafts, self._files["grafts"].schema))
        self._add("diagnostics", pa.Table.from_pylist(diagnostics, self._files["diagnostics"].schema))

    def add_event(self, event: Event) -> None:
        """Add an event; `write` or `write_events` makes it visible to other processes."""
        row = {"trial_id": self._trial_id, **asdict(event)}
        self._add("events", pa.Table.from_pylist([row], self._files["events"].schema))

    def restart_after(self, round: int, joined: Callable[[str], pa.Table] | None = None) -> list[str]:
        """Read the records of an earlier process up to a round, and all its events; drop later rounds.

        Events that were added and not written follow those of the earlier process.

        Args:
            round: round that the trial resumes from; 0: from its beginning.
            joined: returns the trial's rows in a joined table, by name; they replace those of a damaged file.

        Returns:
            A line per damaged file. A copy of the file is kept next to it, as `*.damaged`.

        Raises:
            OSError: a file cannot be read.
        """
        taken, damaged = {}, []
        for name, files in self._files.items():
            if not round and not self._folder.exists(files.file_of(self._trial_id)):
                continue  # a new trial
            try:
                table = files.read(self._trial_id)
            except DamagedFile as error:
                files.keep_aside(error.file)
                table = joined(name) if joined else files.schema.empty_table()
                damaged.append(f"{error}; continues with {table.num_rows} of its rows, from {name}.parquet")
            if name == "events":
                added = self._tables[name].slice(self._num_written_events)
                taken[name], self._num_written_events = pa.concat_tables([table, added]), table.num_rows
            else:
                taken[name] = table.filter(pc.less_equal(table["round"], round))
        self._tables |= taken
        return damaged

    def scores(self, primary: Metric) -> list[float]:
        """Return the best peer's value of a metric on the validation split for each round, in order."""
        by_round: dict[int, float] = {}
        for row in self._tables["rounds"].select(["round", primary.val]).to_pylist():
            best = by_round.get(row["round"], row[primary.val])
            by_round[row["round"]] = max(best, row[primary.val], key=primary.merit)
        return [by_round[round] for round in sorted(by_round)]

    @property
    def last_round(self) -> int:
        """The last round with rows; 0 before the first."""
        return pc.max(self._tables["rounds"]["round"]).as_py() or 0

    def write(self) -> None:
        """Rewrite all files of the trial.

        Raises:
            OSError: they cannot be written now.
        """
        for name in self._tables:
            self._write(name)

    def write_events(self) -> None:
        """Rewrite the trial's file of events, so that they are visible even if their round never completes.

        Raises:
            OSError: they cannot be written now.
        """
        self._write("events")

    def _write(self, name: str) -> None:
        self._folder.create()
        self._files[name].write(self._trial_id, self._tables[name])
        if name == "events":
            self._num_written_events = self._tables[name].num_rows

    def _add(self, name: str, rows: pa.Table) -> None:
        self._tables[name] = pa.concat_tables([self._tables[name], rows]).combine_chunks()
