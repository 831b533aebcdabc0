"""The tables of a run: whole rounds at any moment, each row once; and its best network."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from public_names import COLUMNS
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import load_file, save_file

import graftpop
from graftpop.data import MemoryImages, load_splits
from graftpop.errors import CheckpointError, StorageError
from graftpop.metrics import ACCURACY, Metric
from graftpop.peer.peer import Peer
from graftpop.population import Event, Round
from graftpop.run import run_folder
from graftpop.run.record_files import TRIALS_PER_FOLD
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import Folder
from graftpop.run.trial_records import TrialRecords
from graftpop.settings import Settings
from graftpop.space import parse_space
from graftpop.study.trials import column_types

NUM_PEERS = 3
SITES = ("conv1", "conv2")
TRIALS = COLUMNS["trials"][1:]  # without trial_id


def round_of(number: int, attempt: int = 0, *, is_last: bool = False) -> Round:
    """Return a round whose train_loss and alpha are the number of the attempt."""
    peers: list[Any] = [
        {
            "round": number,
            "epoch": number,
            "peer": peer,
            "lr": 0.1,
            "train_loss": float(attempt),
            "train_accuracy": 0.5,
            "val_loss": 1.0,
            "val_accuracy": 0.1 * peer,
            "num_invalid_filters": 0,
            "mean_entropy_nats": 2.0,
            "images_per_s": 100.0,
            "train_s": 1.0,
            "train_images": 50,
            "exchange_s": 0.1,
        }
        for peer in range(NUM_PEERS)
    ]
    if is_last:
        return Round(number, True, peers)
    rows = [(receiver, site) for receiver in range(NUM_PEERS) for site in SITES]
    grafts: dict[str, list[Any]] = {
        "round": [number] * len(rows),
        "receiver": [receiver for receiver, _ in rows],
        "donor": [(receiver - 1) % NUM_PEERS for receiver, _ in rows],
        "site": [site for _, site in rows],
        "receiver_entropy_nats": [1.0] * len(rows),
        "donor_entropy_nats": [2.0] * len(rows),
        "alpha": [float(attempt)] * len(rows),
        "num_invalid_before": [0] * len(rows),
        "num_invalid_after": [0] * len(rows),
        "staleness": [0] * len(rows),
    }
    return Round(number, False, peers, grafts)


def columns_of(file: Path, *names: str) -> list[tuple[Any, ...]]:
    table = parquet.read_table(file)
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def expected_rounds(trial_id: str, kept: Iterable[tuple[int, int]]) -> list[tuple[Any, ...]]:
    return [(trial_id, number, peer, float(attempt)) for number, attempt in kept for peer in range(NUM_PEERS)]


def expected_grafts(trial_id: str, kept: Iterable[tuple[int, int]]) -> list[tuple[Any, ...]]:
    return [
        (trial_id, number, receiver, site, float(attempt))
        for number, attempt in kept
        for receiver in range(NUM_PEERS)
        for site in SITES
    ]


def append(records: TrialRecords, done: Round) -> None:
    records.add_round(done)
    records.write()


def no_partial(folder: Path) -> bool:
    return not list(folder.rglob("*.partial"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path / "run"))
    folder.create()
    return folder


# a trial's own records


def test_tables_of_rounds_and_grafts_have_their_columns(run: RunFolder) -> None:
    records = TrialRecords(run.of_trials("records"), "a", [ACCURACY])
    append(records, round_of(1))
    run.join_records(["a"], now=True)
    assert run.read_table("rounds").column_names == COLUMNS["rounds"]
    assert run.read_table("grafts").column_names == COLUMNS["grafts"]
    assert run.read_table("rounds").num_rows == NUM_PEERS
    assert run.read_table("grafts").num_rows == NUM_PEERS * len(SITES)


@hypothesis.settings(max_examples=40)  # each step writes four files
@given(st.lists(st.none() | st.tuples(st.floats(0, 1), st.booleans()), max_size=12))
def test_resuming_at_any_round_keeps_each_row_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, bool] | None]
) -> None:
    """A step of None runs the next round; a share goes back to that part of the rounds, True in a new process."""
    folder = tmp_path_factory.mktemp("records")
    records = TrialRecords(Folder(str(folder)), "a", [ACCURACY])
    kept: list[tuple[int, int]] = []
    for attempt, step in enumerate(steps):
        if step is None:
            kept.append((len(kept) + 1, attempt))
            append(records, round_of(len(kept), attempt))
        else:
            share, in_new_process = step
            kept = kept[: round(share * len(kept))]
            records = TrialRecords(Folder(str(folder)), "a", [ACCURACY]) if in_new_process else records
            records.restart_after(len(kept))
            records.write()
        assert columns_of(folder / "a.rounds.parquet", "trial_id", "round", "peer", "train_loss") == (
            expected_rounds("a", kept)
        )
        assert columns_of(folder / "a.grafts.parquet", "trial_id", "round", "receiver", "site", "alpha") == (
            expected_grafts("a", kept)
        )
    assert no_partial(folder)


def test_score_of_a_round_is_that_of_its_best_peer(tmp_path: Path) -> None:
    for metric, best in ((ACCURACY, 0.3), (Metric("accuracy", "min"), 0.1)):
        records = TrialRecords(Folder(str(tmp_path)), "a", [metric])
        assert records.scores(metric) == []
        for number in (1, 2):
            done = round_of(number)
            for row, value in zip(done.peers, (0.2, 0.3, 0.1), strict=True):
                row["val_accuracy"] = number * value  # type: ignore[typeddict-unknown-key]
            records.add_round(done)
        assert records.scores(metric) == [best, 2 * best]


def test_restarting_without_earlier_records_starts_empty(tmp_path: Path) -> None:
    """Under population based training a trial may adopt a checkpoint before its own first round."""
    records = TrialRecords(Folder(str(tmp_path)), "b", [ACCURACY])
    records.restart_after(7)
    append(records, round_of(8, attempt=2))
    assert columns_of(tmp_path / "b.rounds.parquet", "trial_id", "round", "peer", "train_loss") == (
        expected_rounds("b", [(8, 2)])
    )


def test_events_are_written_before_their_round_completes(tmp_path: Path) -> None:
    records = TrialRecords(Folder(str(tmp_path)), "a", [ACCURACY])
    append(records, round_of(1))
    records.add_round(round_of(2))
    records.add_event(Event(2, 1, "lost", "killed"))
    records.write_events()
    assert columns_of(tmp_path / "a.events.parquet", "round", "peer", "event") == [(2, 1, "lost")]
    assert {number for (number,) in columns_of(tmp_path / "a.rounds.parquet", "round")} == {1}


def test_events_have_their_time_in_utc() -> None:
    assert Event(2, 1, "lost", "killed").at.utcoffset() == timedelta(0)


def test_events_are_kept_whatever_round_is_restarted_after(tmp_path: Path) -> None:
    records = TrialRecords(Folder(str(tmp_path)), "a", [ACCURACY])
    for number in (1, 2, 3):
        records.add_round(round_of(number))
        records.add_event(Event(number, 1, "lost", "killed"))
    records.write()
    records = TrialRecords(Folder(str(tmp_path)), "a", [ACCURACY])
    records.add_event(Event(4, None, "checkpoint_skipped", "damaged"))  # before the round to resume from is known
    for _ in range(2):
        records.restart_after(1)
        records.write()
        assert columns_of(tmp_path / "a.events.parquet", "round") == [(1,), (2,), (3,), (4,)]
    assert {number for (number,) in columns_of(tmp_path / "a.rounds.parquet", "round")} == {1}


def test_last_round_adds_no_grafts(tmp_path: Path) -> None:
    records = TrialRecords(Folder(str(tmp_path)), "a", [ACCURACY])
    append(records, round_of(1))
    append(records, round_of(2, is_last=True))
    assert len(columns_of(tmp_path / "a.rounds.parquet", "round")) == 2 * NUM_PEERS
    assert {number for (number,) in columns_of(tmp_path / "a.grafts.parquet", "round")} == {1}


# the joined tables


def test_joining_keeps_trial_order_and_skips_absent_files(run: RunFolder) -> None:
    for name, num_rounds in (("b", 1), ("a", 2)):
        records = TrialRecords(run.of_trials("records"), name, [ACCURACY])
        for number in range(1, num_rounds + 1):
            append(records, round_of(number))
    run.join_records(["a", "not-begun", "b"], now=True)
    assert columns_of(Path(run.location, "rounds.parquet"), "trial_id", "round", "peer", "train_loss") == (
        expected_rounds("a", [(1, 0), (2, 0)]) + expected_rounds("b", [(1, 0)])
    )
    assert run.read_table("grafts").num_rows == 3 * NUM_PEERS * len(SITES)
    assert no_partial(Path(run.location))


def test_joining_before_the_first_record_writes_empty_tables(run: RunFolder) -> None:
    run.join_records(["a"], now=True)
    assert parquet.read_table(Path(run.location, "rounds.parquet")).column_names == COLUMNS["rounds"]
    assert parquet.read_table(Path(run.location, "grafts.parquet")).num_rows == 0


def test_joining_omits_trials_of_other_ids(run: RunFolder) -> None:
    for name in ("a", "b"):
        append(TrialRecords(run.of_trials("records"), name, [ACCURACY]), round_of(1))
    run.join_records(["b"], now=True)
    assert set(run.read_table("rounds")["trial_id"].to_pylist()) == {"b"}


def test_joining_waits_until_it_is_due_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SHARE_OF_JOINING", 1e-9)  # due again after years
    run = RunFolder(str(tmp_path / "run"))
    records = TrialRecords(run.of_trials("records"), "a", [ACCURACY])
    lengths = []
    for number, now in enumerate((False, False, True), start=1):
        append(records, round_of(number))
        run.join_records(["a"], now=now)
        lengths.append(run.read_table("rounds").num_rows // NUM_PEERS)
    assert lengths == [1, 1, 3]


def test_table_of_some_trials_has_their_rows_alone(run: RunFolder) -> None:
    for name in ("a", "b", "c"):
        append(TrialRecords(run.of_trials("records"), name, [ACCURACY]), round_of(1))
    run.join_records(["a", "b", "c"], now=True)
    for trial_ids in (["b"], ["a", "c"], []):
        assert set(run.read_table("rounds", trial_ids=trial_ids)["trial_id"].to_pylist()) == set(trial_ids)


def test_concurrent_reader_sees_whole_rounds_only(run: RunFolder) -> None:
    trials, num_rounds = ("a", "b"), 40
    run.join_records(trials, now=True)
    all_written, failures, seen = threading.Event(), list[str](), list[int]()

    def write(trial_id: str) -> None:
        records = TrialRecords(run.of_trials("records"), trial_id, [ACCURACY])
        for number in range(1, num_rounds + 1):
            append(records, round_of(number))

    def read() -> None:
        while not all_written.is_set():
            table = run.read_table("rounds")
            rows = [
                tuple(row.values()) for row in table.select(["trial_id", "round", "peer", "train_loss"]).to_pylist()
            ]
            lengths = {name: sum(row[0] == name for row in rows) // NUM_PEERS for name in trials}
            whole = [
                row
                for name in trials
                for row in expected_rounds(name, ((number + 1, 0) for number in range(lengths[name])))
            ]
            if rows != whole:
                failures.append(f"{rows}")
            seen.append(len(rows))

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, trial_id) for trial_id in trials]
        reader = pool.submit(read)
        try:
            while not all(writer.done() for writer in writers):
                run.join_records(trials, now=True)
        finally:
            all_written.set()
        for thread in (*writers, reader):
            thread.result(timeout=30)
    run.join_records(trials, now=True)
    assert not failures
    assert seen == sorted(seen)
    assert len(set(seen)) > 3  # rounds were added while it read
    assert run.read_table("rounds").num_rows == 2 * num_rounds * NUM_PEERS


# damage


def flip(path: Path) -> None:
    """Change one bit in the data of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def records_of_rounds(run: RunFolder, trial_id: str, num_rounds: int) -> TrialRecords:
    records = TrialRecords(run.of_trials("records"), trial_id, [ACCURACY])
    for number in range(1, num_rounds + 1):
        records.add_round(round_of(number))
        records.add_event(Event(number, 1, "lost", "killed"))
    records.write()
    return records


def test_join_keeps_the_rows_of_a_damaged_file(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        records_of_rounds(run, name, 1)
    run.join_records(["a", "b"], now=True)
    damaged = Path(run.location, "tune/records/a.rounds.parquet")
    damaged.write_bytes(b"cut short")
    records_of_rounds(run, "b", 2)
    for _ in range(2):
        run.join_records(["a", "b"], now=True)
    assert columns_of(Path(run.location, "rounds.parquet"), "trial_id", "round", "peer", "train_loss") == (
        expected_rounds("a", [(1, 0)]) + expected_rounds("b", [(1, 0), (2, 0)])
    )
    (line,) = caplog.messages
    assert str(damaged) in line
    assert damaged.read_bytes() == b"cut short"  # its trial may still run, and replaces it


@pytest.mark.parametrize("name", ["rounds", "grafts", "diagnostics", "events"])
@pytest.mark.parametrize("damage", [flip, cut])
def test_trial_goes_on_without_the_rows_of_a_damaged_file(
    run: RunFolder, name: str, damage: Callable[[Path], None]
) -> None:
    records_of_rounds(run, "a", 3)
    path = Path(run.location, f"tune/records/a.{name}.parquet")
    damage(path)
    content = path.read_bytes()
    records = TrialRecords(run.of_trials("records"), "a", [ACCURACY])
    (line,) = records.restart_after(2)
    assert str(path) in line
    append(records, round_of(3, attempt=1))
    assert Path(f"{path}.damaged").read_bytes() == content
    lost = {name} & {"rounds", "grafts"}
    rounds, grafts = (
        columns_of(path.with_name(f"a.{one}.parquet"), *columns)
        for one, columns in (
            ("rounds", ("trial_id", "round", "peer", "train_loss")),
            ("grafts", ("trial_id", "round", "receiver", "site", "alpha")),
        )
    )
    kept = [(1, 0), (2, 0), (3, 1)]
    assert rounds == expected_rounds("a", kept[2:] if "rounds" in lost else kept)
    assert grafts == expected_grafts("a", kept[2:] if "grafts" in lost else kept)
    assert len(columns_of(path.with_name("a.events.parquet"), "round")) == (0 if name == "events" else 3)


def test_trial_takes_the_rows_of_a_damaged_file_from_the_joined_table(run: RunFolder) -> None:
    records_of_rounds(run, "a", 3)
    records_of_rounds(run, "b", 3)
    run.join_records(["a", "b"], now=True)
    for name in ("rounds", "events"):
        cut(Path(run.location, f"tune/records/a.{name}.parquet"))
    records = TrialRecords(run.of_trials("records"), "a", [ACCURACY])
    lines = records.restart_after(2, lambda name: run.joined_rows(name, ["a"]))
    assert [re.search(r"(\d+) of its rows", line)[1] for line in lines] == ["9", "3"]  # type: ignore[index]
    append(records, round_of(3, attempt=1))
    assert columns_of(
        Path(run.location, "tune/records/a.rounds.parquet"), "trial_id", "round", "peer", "train_loss"
    ) == expected_rounds("a", [(1, 0), (2, 0), (3, 1)])
    assert columns_of(Path(run.location, "tune/records/a.events.parquet"), "round") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("name", ["rounds", "events"])
def test_damaged_file_of_a_finished_trial_is_replaced_with_an_event(
    run: RunFolder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    trials = ["a", "b"]
    for trial in trials:
        records_of_rounds(run, trial, 2)
    run.join_records(trials, now=True)
    path = Path(run.location, f"tune/records/a.{name}.parquet")
    flip(path)
    for _ in range(2):
        run.join_records(trials, now=True, finished=trials)
    (line,) = caplog.messages
    assert str(path) in line
    events = run.read_table("events").to_pylist()
    assert [(row["trial_id"], row["round"], row["event"]) for row in events] == [
        ("a", 1, "lost"),
        ("a", 2, "lost"),
        ("a", 2, "records_damaged"),
        ("b", 1, "lost"),
        ("b", 2, "lost"),
    ]
    assert str(path) in events[2]["cause"]
    assert columns_of(Path(run.location, "rounds.parquet"), "trial_id", "round", "peer", "train_loss") == (
        expected_rounds("a", [(1, 0), (2, 0)]) + expected_rounds("b", [(1, 0), (2, 0)])
    )


def test_damaged_part_keeps_its_rows_in_the_joined_table(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    trials = [f"{number:05}" for number in range(2 * TRIALS_PER_FOLD)]
    first, last = trials[:TRIALS_PER_FOLD], trials[TRIALS_PER_FOLD:]
    for trial in first:
        append(TrialRecords(run.of_trials("records"), trial, [ACCURACY]), round_of(1))
    run.join_records(first, now=True)
    run.fold_records(first, first)
    (part,) = Path(run.location, "tune/records").glob("finished-*.rounds.parquet")
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    run = RunFolder(run.location)
    for trial in last:
        append(TrialRecords(run.of_trials("records"), trial, [ACCURACY]), round_of(1))
    run.fold_records(trials, trials)
    run.join_records(trials, now=True, finished=trials)
    (line,) = caplog.messages
    assert str(part) in line
    assert part.exists()
    assert columns_of(Path(run.location, "rounds.parquet"), "trial_id", "round", "peer", "train_loss") == [
        row for trial in trials for row in expected_rounds(trial, [(1, 0)])
    ]


def test_files_of_records_are_bounded(run: RunFolder) -> None:
    trials = [f"{number:05}" for number in range(TRIALS_PER_FOLD)]
    for trial in trials:
        append(TrialRecords(run.of_trials("records"), trial, [ACCURACY]), round_of(1))
    run.join_records(trials, now=True)
    assert run.of_trials("records").names() == sorted(
        f"{trial}.{name}.parquet" for trial in trials for name in COLUMNS if name != "trials"
    )
    before = run.read_table("rounds")
    run.fold_records(trials, trials)
    run.join_records(trials, now=True)
    assert run.of_trials("records").names() == sorted(
        f"finished-000001.{name}.parquet" for name in COLUMNS if name != "trials"
    )
    assert run.read_table("rounds").equals(before)
    assert run.records_of("grafts", trials[3]).num_rows == NUM_PEERS * len(SITES)


# the table of trials


def trial_row(trial_id: str, **values: Any) -> dict[str, Any]:
    return {"trial_id": trial_id, "status": "running", **dict.fromkeys(TRIALS), "epochs": 0, "wall_s": 0.0, **values}


def test_trials_table_has_searched_keys_and_mixed_values_as_text(run: RunFolder) -> None:
    space = parse_space(
        {
            "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0, 1]}},
            "population": {"num_peers": {"choice": [2, 3]}},
        }
    )
    types = column_types(space.domains)
    run.write_trials(
        [
            trial_row("a", **{"graft.alpha": "adaptive", "graft.A": 0.25, "population.num_peers": 2}),
            trial_row(
                "b",
                status="completed",
                val_accuracy=0.5,
                num_peers=3,
                epochs=12,
                train_images=99,
                wall_s=1.5,
                **{"graft.alpha": 0.5, "graft.A": 1, "population.num_peers": 3},
            ),
        ],
        types,
    )
    table = parquet.read_table(Path(run.location, "trials.parquet"))
    assert table.column_names == ["trial_id", "status", "graft.alpha", "graft.A", "population.num_peers", *TRIALS]
    assert table.select(["graft.alpha", "graft.A", "population.num_peers"]).to_pydict() == {
        "graft.alpha": ["adaptive", "0.5"],
        "graft.A": [0.25, 1.0],
        "population.num_peers": [2, 3],
    }
    assert (
        table.slice(1, 1).to_pylist()[0].items()
        >= {
            "status": "completed",
            "val_accuracy": 0.5,
            "test_accuracy": None,
            "num_peers": 3,
            "epochs": 12,
            "train_images": 99,
            "wall_s": 1.5,
        }.items()
    )
    assert no_partial(Path(run.location))


def test_none_stays_none_in_a_text_column(run: RunFolder) -> None:
    run.write_trials([trial_row("a", graft=None), trial_row("b", graft={"alpha": 0.5})], {"graft": pyarrow.string()})
    assert run.read_table("trials")["graft"].to_pylist() == [None, "{'alpha': 0.5}"]


def test_key_that_did_not_matter_in_a_trial_is_null(run: RunFolder) -> None:
    space = parse_space({"graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0, 1]}}})
    rows = [trial_row("a", **{"graft.alpha": "adaptive", "graft.A": 0.25}), trial_row("b", **{"graft.alpha": 0.5})]
    run.write_trials(rows, column_types(space.domains))
    table = run.read_table("trials")
    assert (table["graft.alpha"].to_pylist(), table["graft.A"].to_pylist()) == (["adaptive", "0.5"], [0.25, None])


def test_unwritten_tables_are_read_as_empty(run: RunFolder) -> None:
    assert [run.read_table(name).num_rows for name in ("trials", "rounds", "grafts")] == [0, 0, 0]
    assert run.read_table("rounds").column_names == COLUMNS["rounds"]
    assert set(TRIALS) < set(run.read_table("trials").column_names)


def test_damaged_table_is_refused_with_its_path(run: RunFolder) -> None:
    Path(run.location, "rounds.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(CheckpointError, match=r"^[^\n]*/run/rounds\.parquet: [^\n]*$"):
        run.read_table("rounds")


# the folder


def test_run_folder_accepts_a_file_uri(tmp_path: Path) -> None:
    run = RunFolder(f"file://{tmp_path}/run")
    assert not run.exists()
    run.create()
    run.write_text("space.yaml", "name: caf\u00e9\n")
    append(TrialRecords(run.of_trials("records"), "a", [ACCURACY]), round_of(1))
    run.join_records(["a"], now=True)
    assert run.read_text("space.yaml") == (tmp_path / "run" / "space.yaml").read_text(encoding="utf-8")
    assert len(columns_of(tmp_path / "run" / "rounds.parquet", "round")) == NUM_PEERS
    assert (tmp_path / "run" / "tune" / "records" / "a.rounds.parquet").is_file()
    assert no_partial(tmp_path)


def test_relative_folder_is_resolved_against_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder("runs/a").location == f"{tmp_path}/runs/a"


@pytest.mark.parametrize("location", ["nosuch://bucket/run", "file://relative", "s3:// spaced"])
def test_invalid_uri_is_refused_in_one_line(location: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{re.escape(location)}: [^\n]*s3://bucket/path[^\n]*$"):
        RunFolder(location)


def test_run_name_omits_uri_options() -> None:
    folder = RunFolder("s3://bucket/runs/first?region=eu-west-1&endpoint_override=127.0.0.1:9&scheme=http")
    assert folder.name == "first"


def test_uncreatable_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=rf"^--out {tmp_path}/file/run: [^\n]+$"):
        RunFolder(str(tmp_path / "file" / "run")).create()


@pytest.mark.parametrize("started", ["tune", "run.json"])
def test_run_has_a_space_and_something_of_a_start(run: RunFolder, started: str) -> None:
    """A driver that was killed before its first trial leaves no more, and provenance may be lost."""
    for name in ("space.yaml", started):
        with pytest.raises(CheckpointError, match=rf"/run: [^\n]* no [^\n]*{name}[^\n]*; "):
            run.check_is_run()
        run.write_text(name, "")
    run.check_is_run()
    assert run.exists(started)


def test_locked_run_is_refused_without_waiting(run: RunFolder) -> None:
    start = time.monotonic()
    with run.locked(), pytest.raises(StorageError, match="/run/tune: "), RunFolder(run.location).locked():
        pass
    assert time.monotonic() - start < 3


def test_text_file_is_replaced(run: RunFolder) -> None:
    run.write_text("run.json", "long" * 1000)
    run.write_text("run.json", "short")
    assert run.read_text("run.json") == "short"
    assert [path.name for path in Path(run.location).iterdir()] == ["run.json"]


# the best network

SETTINGS = Settings.model_validate(
    {
        "data": {"name": "digits", "max_train_images": 100},
        "model": {"name": "resnet8"},
        "training": {"epochs": 1, "batch_size": 32, "lr": 0.05},
    }
)


@pytest.fixture(scope="module")
def trained() -> Peer:
    peer = Peer(SETTINGS, 0)
    peer.train(1)
    return peer


@pytest.fixture
def best(run: RunFolder, trained: Peer) -> Path:
    run.write_best(trained.save(), {"trial_id": "a", "measured": {"val_accuracy": 0.5}})
    return Path(run.location, "best")


def test_loaded_best_network_equals_the_trained_one(best: Path, trained: Peer) -> None:
    network = graftpop.load(best)
    assert not any(module.training for module in network.modules())
    saved = tensors_from_bytes(trained.save())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, saved[f"network/{name}"]), name

    card = json.loads((best / "config.json").read_text())
    test = load_splits(SETTINGS.data, seed=0).test
    assert isinstance(test, MemoryImages)
    mean, std = (torch.tensor(card[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        outputs = network((test.pixels.float() / 255 - mean) / std).softmax(1)
    probabilities, labels = trained.predict("test")
    np.testing.assert_allclose(outputs.numpy(), probabilities, rtol=0, atol=1e-5)
    assert labels.tolist() == test.labels.tolist()


def test_model_card_has_model_classes_and_image_shape(best: Path) -> None:
    card = json.loads((best / "config.json").read_text())
    assert (card["model"], card["num_classes"], card["image_shape"]) == ("resnet8", 10, [3, 8, 8])
    assert card["class_names"] == [str(digit) for digit in range(10)]
    assert json.loads((best / "metrics.json").read_text()) == {"trial_id": "a", "measured": {"val_accuracy": 0.5}}
    assert sorted(path.name for path in best.iterdir()) == ["config.json", "metrics.json", "model.safetensors"]


def test_new_best_network_replaces_the_previous_one(run: RunFolder, best: Path, trained: Peer) -> None:
    other = Peer(SETTINGS, 1)
    run.write_best(other.save(), {"trial_id": "b"})
    name = "conv1.weight"
    weight = graftpop.load(best).state_dict()[name]
    assert torch.equal(weight, tensors_from_bytes(other.save())[f"network/{name}"])
    assert not torch.equal(weight, tensors_from_bytes(trained.save())[f"network/{name}"])


def test_equal_networks_give_equal_bytes(run: RunFolder, best: Path, trained: Peer) -> None:
    file = best / "model.safetensors"
    before = file.read_bytes()
    with safe_open(file, "pt") as opened:
        metadata = {name: json.loads(text) for name, text in opened.metadata().items() if name != "format"}
        assert opened.metadata()["format"] == "pt"
    assert metadata == {
        "model_card": json.loads((best / "config.json").read_text()),
        "metrics": json.loads((best / "metrics.json").read_text()),
    }
    run.write_best(trained.save(), {"trial_id": "a", "measured": {"val_accuracy": 0.5}})
    assert file.read_bytes() == before


def test_reader_never_mixes_two_networks(run: RunFolder, trained: Peer) -> None:
    """The networks differ in architecture, so that the card of one refuses the weights of the other."""
    other = Peer(SETTINGS.model_copy(update={"model": SETTINGS.model.model_copy(update={"name": "resnet20"})}), 0)
    files = [trained.save(), other.save()]
    run.write_best(files[0], {})
    is_done, read = threading.Event(), Counter[int]()

    def read_repeatedly() -> None:
        while not is_done.is_set():
            network = graftpop.load(Path(run.location, "best"))
            read[sum(weight.numel() for weight in network.parameters())] += 1

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read_repeatedly)
        try:
            number, deadline = 0, time.monotonic() + 20
            while number < 200 or (len(read) < 2 and not reader.done() and time.monotonic() < deadline):
                run.write_best(files[number % 2], {})
                number += 1
        finally:
            is_done.set()
        reader.result(timeout=30)
    assert len(read) == 2  # both networks were read


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 100])
def test_file_of_another_kind_is_not_written_as_best(run: RunFolder, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^checkpoint of a peer: "):
        run.write_best(content, {})
    assert not run.exists("best")


def load_error(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        graftpop.load(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: ")
    return str(caught.value)


def remove_metadata(best: Path) -> None:
    """Leave the card in config.json alone, as in an exported network."""
    save_file(load_file(best / "model.safetensors"), best / "model.safetensors")


def test_folder_without_a_network_is_refused(tmp_path: Path, best: Path) -> None:
    assert "No such file" in load_error(tmp_path / "absent")
    assert "No such file" in load_error(best.parent)
    (best / "model.safetensors").unlink()
    assert "No such file" in load_error(best)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_truncated_weights_are_refused(best: Path, length: int) -> None:
    file = best / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert re.search(r"(?i)too ?small|incomplete|invalid ?header ?length", load_error(best))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_classes": 3}, "size mismatch for linear.weight"),
        ({"model": "resnet20"}, "model.safetensors is too small for this network"),
        ({"model": "vgg16"}, "model.safetensors is too small for this network"),
    ],
)
def test_weights_of_another_architecture_are_refused(best: Path, changes: dict[str, Any], reason: str) -> None:
    remove_metadata(best)
    card = json.loads((best / "config.json").read_text())
    (best / "config.json").write_text(json.dumps(card | changes))
    assert reason in load_error(best)


def test_truncated_card_is_refused(best: Path) -> None:
    remove_metadata(best)
    card = (best / "config.json").read_text()
    (best / "config.json").write_text(card[: len(card) // 2])
    assert "line " in load_error(best)


@pytest.mark.parametrize("options", ["region=eu-west-1", "scheme=http&endpoint_override=127.0.0.1:9"])
def test_slash_at_the_end_of_a_uri_is_ignored(options: str) -> None:
    folder = RunFolder(f"s3://bucket/studies/run/?{options}")
    assert folder.name == "run"
    assert folder.of_trials("records").location == f"s3://bucket/studies/run/tune/records?{options}"
