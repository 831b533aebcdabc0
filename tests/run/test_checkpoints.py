"""Checkpoints are complete or absent, old ones are removed, and damaged or foreign files are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftpop.cluster.trial_checkpoints import newest_checkpoint
from graftpop.errors import CheckpointError, PopulationLost
from graftpop.run import checkpoints as checkpoints_module
from graftpop.run.checkpoint_writer import CheckpointWriter
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.storage import Folder

PEERS = {f"peer-{peer}.safetensors": bytes([peer]) * 100 for peer in range(3)}


def metadata(round: int, score: float = 0.5) -> CheckpointMetadata:
    return CheckpointMetadata(
        round=round,
        score=score,
        is_complete=False,
        peers=[0, 1, 2],
        num_restarts={1: 2},
        summary={"val_accuracy": score, "best_peer": 1},
        settings={"seed": 0},
    )


def files_of(round: int) -> dict[str, bytes]:
    return {name: content + bytes([round]) for name, content in PEERS.items()}


def write(checkpoints: Checkpoints, round: int, score: float = 0.5) -> None:
    checkpoints.write(metadata(round, score), lambda: files_of(round).items())


def rounds(checkpoints: Checkpoints) -> list[int]:
    return [checkpoint.metadata.round for checkpoint in checkpoints.newest_first()]


def never_away(round: int, cause: str) -> None:
    raise AssertionError(f"round {round}: {cause}")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Folder(str(tmp_path)))


def test_checkpoint_reads_back_as_written(checkpoints: Checkpoints) -> None:
    assert rounds(checkpoints) == []
    write(checkpoints, 3)
    (newest,) = checkpoints.newest_first()
    assert newest.files() == files_of(3)
    assert newest.read("peer-1.safetensors") == files_of(3)["peer-1.safetensors"]
    assert newest.metadata.model_copy(update={"files": {}, "blake2b": ""}) == metadata(3)
    with pytest.raises(CheckpointError, match=r"peer-7\.safetensors: "):
        newest.read("peer-7.safetensors")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_last_two_and_the_first_best_checkpoint_are_kept(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("trial")
    checkpoints = Checkpoints(Folder(str(folder)))
    for round, score in enumerate(scores, start=1):
        write(checkpoints, round, score)
    best = scores.index(max(scores)) + 1
    kept = sorted({len(scores), max(1, len(scores) - 1), best}, reverse=True)
    assert rounds(checkpoints) == kept
    assert len(list(folder.iterdir())) == len(kept)
    assert all(checkpoint.files() == files_of(checkpoint.metadata.round) for checkpoint in checkpoints.newest_first())


@pytest.mark.parametrize(("scores", "kept"), [([0.5], [1]), ([0.1, 0.2, 0.3], [3, 2]), ([0.3, 0.1, 0.2], [3, 1])])
def test_two_checkpoints_of_a_complete_trial_are_kept(
    checkpoints: Checkpoints, scores: list[float], kept: list[int]
) -> None:
    for round, score in enumerate(scores, start=1):
        done = metadata(round, score).model_copy(update={"is_complete": round == len(scores)})
        checkpoints.write(done, files_of(round).items)
    assert rounds(checkpoints) == kept


def test_handed_over_checkpoint_is_kept_until_the_next(checkpoints: Checkpoints) -> None:
    checkpoints.hand_over()  # without a checkpoint
    write(checkpoints, 1, 0.9)
    for round in range(2, 6):
        write(checkpoints, round)
        if round == 3:
            checkpoints.hand_over()
    assert rounds(checkpoints) == [5, 4, 3, 1]
    assert [checkpoint.metadata.round for checkpoint in checkpoints.up_to(4)] == [4, 3, 1]
    checkpoints.hand_over()
    for round in range(6, 9):
        write(checkpoints, round)
    assert rounds(checkpoints) == [8, 7, 5, 1]


@pytest.mark.parametrize("num_written", range(4))
def test_incomplete_checkpoint_is_skipped(checkpoints: Checkpoints, tmp_path: Path, num_written: int) -> None:
    write(checkpoints, 1)

    def broken_off() -> Iterator[tuple[str, bytes]]:
        yield from list(files_of(2).items())[:num_written]
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        checkpoints.write(metadata(2), broken_off)
    assert rounds(checkpoints) == [1]
    write(checkpoints, 2)
    assert rounds(checkpoints) == [2, 1]
    assert next(checkpoints.newest_first()).files() == files_of(2)


def test_interrupted_rewrite_leaves_no_mixed_checkpoint(checkpoints: Checkpoints) -> None:
    def interrupted() -> Iterator[tuple[str, bytes]]:
        yield "peer-0.safetensors", b"other"
        raise OSError("no space left on device")

    write(checkpoints, 1)
    write(checkpoints, 2)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.write(metadata(2), interrupted)
    assert rounds(checkpoints) == [1]


def test_half_removed_checkpoint_is_skipped(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = Folder.remove

    def interrupted(folder: Folder, name: str) -> None:
        if name == "round-000001":
            raise OSError("storage away")
        remove(folder, name)

    write(checkpoints, 1, score=0.1)
    write(checkpoints, 2)
    monkeypatch.setattr(Folder, "remove", interrupted)
    with pytest.raises(OSError, match="storage away"):
        write(checkpoints, 3)
    assert rounds(checkpoints) == [3, 2]


def test_metadata_above_the_limit_are_skipped(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(checkpoints, 1)
    size = (tmp_path / "round-000001" / "population.json").stat().st_size
    for limit, expected in ((size, [1]), (size - 1, [])):
        monkeypatch.setattr(checkpoints_module, "MAX_METADATA_BYTES", limit)
        assert rounds(checkpoints) == expected


def test_checkpoint_replaces_one_of_the_same_round(checkpoints: Checkpoints) -> None:
    write(checkpoints, 1)
    checkpoints.write(metadata(1, 0.75), lambda: [("peer-0.safetensors", b"other")])
    (newest,) = checkpoints.newest_first()
    assert (newest.files(), newest.metadata.score) == ({"peer-0.safetensors": b"other"}, 0.75)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"peer-1\.safetensors: [^\n]*101 bytes$"),
        (lambda content: content + b"x", r"peer-1\.safetensors: [^\n]*101 bytes$"),
        (lambda content: b"", r"peer-1\.safetensors: [^\n]*101 bytes$"),
        (lambda content: b"x" + content[1:], r"peer-1\.safetensors: [^\n]*hash$"),
        (None, r"peer-1\.safetensors: [^\n]*No such file"),
    ],
)
def test_damaged_file_is_refused_with_its_path(
    checkpoints: Checkpoints, tmp_path: Path, damage: Any, message: str
) -> None:
    write(checkpoints, 1)
    write(checkpoints, 2)
    file = tmp_path / "round-000002" / "peer-1.safetensors"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    newest, before = checkpoints.newest_first()
    with pytest.raises(CheckpointError, match=message):
        newest.files()
    assert before.files() == files_of(1)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../peer-0.safetensors": {"bytes": 1, "blake2b": "0" * 32}}},
        {"files": {"/etc/passwd": {"bytes": 1, "blake2b": "0" * 32}}},
        {"files": {"peer-0.safetensors\n": {"bytes": 1, "blake2b": "0" * 32}}},
        {"files": {"peer-0.safetensors.pt": {"bytes": 1, "blake2b": "0" * 32}}},
        {"files": {"peer-1000000.safetensors": {"bytes": 1, "blake2b": "0" * 32}}},
        {"files": {"peer-0.safetensors": {"bytes": -1, "blake2b": "0" * 32}}},
        {"round": "1"},
        {"round": -1},
        {"round": 7},
        {"peers": [0.5]},
        {"more": 0},
    ],
)
def test_checkpoint_with_foreign_metadata_is_skipped(
    checkpoints: Checkpoints, tmp_path: Path, change: dict[str, Any]
) -> None:
    write(checkpoints, 1)
    file = tmp_path / "round-000001" / "population.json"
    without_hash = json.loads(file.read_text()) | {"format_version": 2, "blake2b": ""}
    file.write_text(json.dumps(without_hash))
    assert rounds(checkpoints) == [1]
    file.write_text(json.dumps(without_hash | change))
    assert rounds(checkpoints) == []


def test_every_changed_byte_of_the_metadata_is_noticed(checkpoints: Checkpoints, tmp_path: Path) -> None:
    write(checkpoints, 1)
    file = tmp_path / "round-000001" / "population.json"
    content = file.read_bytes()
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert rounds(checkpoints) == [], place
    file.write_text(json.dumps(json.loads(content) | {"blake2b": ""}))
    assert rounds(checkpoints) == []


@pytest.mark.parametrize("version", [1, 4, "3"])
def test_checkpoint_of_another_version_is_refused_in_one_line(
    checkpoints: Checkpoints, tmp_path: Path, version: Any
) -> None:
    """A newer version's file may have more keys, too."""
    write(checkpoints, 1)
    write(checkpoints, 2)
    file = tmp_path / "round-000002" / "population.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": version, "more": 0}))
    with pytest.raises(CheckpointError, match=rf"^{file}: format_version [^\n]* 3, got {version}; [^\n]*$"):
        rounds(checkpoints)


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"", lambda content: b"\0" * 300])
def test_truncated_metadata_are_an_event_and_the_checkpoint_before_is_used(
    checkpoints: Checkpoints, tmp_path: Path, damage: Any
) -> None:
    write(checkpoints, 1)
    write(checkpoints, 2)
    (tmp_path / "round-000003").mkdir()  # its writer was killed, which is no damage
    (tmp_path / "notes").mkdir()
    file = tmp_path / "round-000002" / "population.json"
    file.write_bytes(damage(file.read_bytes()))
    events: list[Any] = []
    newest, files = newest_checkpoint(checkpoints, checkpoints, "00000", 3, events.append)
    assert newest is not None
    assert (newest.metadata.round, files) == (1, files_of(1))
    ((round, event, cause),) = [(event.round, event.event, event.cause) for event in events]
    assert (round, event) == (2, "checkpoint_skipped")
    assert cause.startswith(f"{file}: damaged: ")
    assert "\n" not in cause


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_checkpoint_with_arbitrary_metadata_is_skipped(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("trial")
    (folder / "round-000001").mkdir()
    (folder / "round-000001" / "population.json").write_bytes(content)
    assert rounds(Checkpoints(Folder(str(folder)))) == []


def test_checkpoint_with_deeply_nested_metadata_is_skipped(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "round-000001").mkdir()
    (tmp_path / "round-000001" / "population.json").write_text('{"summary": ' + "[" * 10**6)
    assert rounds(checkpoints) == []


def test_remove_after_removes_later_checkpoints(checkpoints: Checkpoints) -> None:
    for round in (1, 2, 3):
        write(checkpoints, round, score=1 / round)
    checkpoints.remove_after(1)
    assert rounds(checkpoints) == [1]


def test_writer_writes_one_checkpoint_at_a_time_in_background(checkpoints: Checkpoints) -> None:
    may_continue = Event()

    def states() -> Iterator[tuple[str, bytes]]:
        assert may_continue.wait(60)
        yield from files_of(1).items()

    writer = CheckpointWriter(checkpoints, "00000", never_away)
    writer.write(metadata(1), states)
    assert rounds(checkpoints) == []
    may_continue.set()
    writer.write(metadata(2), lambda: files_of(2).items())
    assert 1 in rounds(checkpoints)
    writer.finish()
    writer.finish()
    assert rounds(checkpoints) == [2, 1]


def test_writer_reports_the_cause_of_absent_storage(checkpoints: Checkpoints) -> None:
    tries: list[int] = []

    def states() -> Iterator[tuple[str, bytes]]:
        tries.append(4)
        if len(tries) == 1:
            raise OSError("No space left on device")
        yield from files_of(4).items()

    reports: list[tuple[int, str, str]] = []
    writer = CheckpointWriter(
        checkpoints, "00007", lambda round, cause: reports.append((round, cause, current_thread().name))
    )
    writer.write(metadata(4), states)
    writer.finish()
    assert rounds(checkpoints) == [4]
    ((round, cause, thread),) = reports
    assert (round, thread) == (4, current_thread().name)
    assert cause.startswith("trial 00007: ")
    assert cause.endswith(": No space left on device")


def test_writer_raises_any_other_error_at_the_next_write(checkpoints: Checkpoints) -> None:
    def lost() -> Iterator[tuple[str, bytes]]:
        raise PopulationLost("the states are gone")

    writer = CheckpointWriter(checkpoints, "00000", never_away)
    writer.write(metadata(1), lost)
    with pytest.raises(PopulationLost, match="the states are gone"):
        writer.write(metadata(2), lambda: files_of(2).items())
    writer.write(metadata(3), lambda: files_of(3).items())
    writer.finish()
    assert rounds(checkpoints) == [3]


def test_late_peer_loses_the_population(checkpoints: Checkpoints) -> None:
    def late() -> Iterator[tuple[str, bytes]]:
        raise TimeoutError("no answer within 300 s")

    writer = CheckpointWriter(checkpoints, "00007", never_away)
    writer.write(metadata(2), late)
    with pytest.raises(PopulationLost, match=r"^trial 00007: [^\n]*round 2, got no answer within 300 s"):
        writer.finish()
    assert rounds(checkpoints) == []


def test_writer_reports_absent_storage_of_states_that_come_too_late(checkpoints: Checkpoints) -> None:
    failures = iter((OSError("No space left on device"), TimeoutError("no answer within 300 s")))

    def late() -> Iterator[tuple[str, bytes]]:
        raise next(failures)

    causes: list[str] = []
    writer = CheckpointWriter(checkpoints, "00007", lambda round, cause: causes.append(cause))
    writer.write(metadata(2), late)
    with pytest.raises(PopulationLost):
        writer.finish()
    (cause,) = causes
    assert "No space left on device" in cause
