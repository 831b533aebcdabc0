"""The recorder of a study without Ray: work per trial, and tables that are not due."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.trainable import trainable

from graftpop.cluster.heartbeats import Heart, Heartbeats
from graftpop.cluster.recorder import TRIALS, Recorder
from graftpop.cluster.resources import Node
from graftpop.cluster.room import RoomWatch
from graftpop.cluster.study import read_known
from graftpop.cluster.trainable import PopulationTrainable
from graftpop.errors import StorageError
from graftpop.metrics import ACCURACY
from graftpop.peer.peer import Peer
from graftpop.population import Event
from graftpop.run import run_folder
from graftpop.run.checkpoint_writer import CheckpointWriter
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.record_files import TRIALS_PER_FOLD
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import Folder
from graftpop.run.trial_records import TrialRecords
from graftpop.space import Space, parse_space
from graftpop.study.trials import Trial

TREE: dict[str, Any] = {
    "data": {"name": "digits", "max_train_images": 100},
    "model": {"name": "resnet8"},
    "training": {"epochs": 1, "lr": {"uniform": [0.1, 1]}},
    "graft": {},
}
SPACE = parse_space(TREE)
REPORT = {"round": 1, "epoch": 1, "val_accuracy": 0.5, "test_accuracy": 0.5, "events": "", "wall_s": 1.0}


class NoHeartbeats(Heartbeats):
    """No leading process is looked at."""

    def __init__(self) -> None:
        """Start no actor."""

    def heard(self) -> None:
        return None


def known_trial(run: RunFolder, number: int) -> Trial:
    """Write the events of a completed trial and return the trial."""
    trial = Trial(f"{number:05}", number, {"training.lr": 0.1}, 1, "completed", REPORT)
    record_event(run, number)
    return trial


def record_event(run: RunFolder, number: int) -> None:
    records = TrialRecords(run.of_trials("records"), f"{number:05}", [ACCURACY])
    records.add_event(Event(1, 0, "lost", "killed"))
    records.write_events()


def recorder_of(run: RunFolder, num_known: int, space: Space = SPACE) -> Recorder:
    run.create()
    known = [known_trial(run, number) for number in range(num_known)]
    scores: dict[str, dict[int, float]] = {trial.trial_id: {} for trial in known}
    room = RoomWatch(run.location, num_known, list, clock=lambda: 0.0)  # never due
    return Recorder(space, run, lambda trials: None, known, FIFOScheduler(), scores, room, NoHeartbeats())


def run_trial(recorder: Recorder, number: int, report: dict[str, Any] = REPORT) -> None:
    """Let a trial start, report its round and end."""
    config = {"trial": {"trial_id": f"{number:05}", "sample": {"training.lr": 0.1}}}
    trial = TuneTrial("population", stub=True, trial_id=f"tune-{number}", config=config)
    recorder.on_step_begin(0, [trial])
    recorder.on_trial_start(0, [trial], trial)
    recorder.on_trial_result(0, [trial], trial, report)
    recorder.on_trial_complete(0, [trial], trial)


@pytest.mark.parametrize("content", [None, "[{"])
def test_trials_lost_with_both_lists_are_announced(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(str(tmp_path))
    assert read_known(run, SPACE) == []
    assert not caplog.messages  # a new run
    run.of_trials("checkpoints").create()
    if content is not None:
        run.write_text(TRIALS, content)
    assert read_known(run, SPACE) == []
    (line,) = caplog.messages
    assert TRIALS in line


class Beats(Heart):
    """The trial that heartbeats name."""

    def start(self, trial_id: Callable[[], str]) -> None:
        object.__setattr__(self, "trial_id", trial_id)


def test_heartbeats_name_the_next_trial_while_it_waits_for_the_writes_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "DEFAULT_STORAGE_PATH", str(tmp_path))
    beats: Any = Beats(1.0)
    named: list[str] = []

    class Leader(PopulationTrainable):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, SPACE, [Node(2.0, 0.0)], str(tmp_path), beats)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            named.append(beats.trial_id())
            return super().reset_config(new_config)

    config = {"trial": {"trial_id": "00000", "sample": {"training.lr": 0.1}}}
    leader = Leader(config)
    before = beats.trial_id()
    leader.reset(config)  # type: ignore[no-untyped-call]
    assert named == [Path(leader.logdir).name] != [before]


class LateStates(CheckpointWriter):
    """Writes a checkpoint whose states never arrive."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        metadata = CheckpointMetadata(
            round=1, score=0.5, is_complete=False, peers=[0], num_restarts={}, summary={}, settings={}
        )
        self.write(metadata, self._late)

    def _late(self) -> Iterator[tuple[str, bytes]]:
        raise TimeoutError("no answer")


def test_checkpoint_that_a_stopped_trial_cannot_write_is_no_failure_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "DEFAULT_STORAGE_PATH", str(tmp_path))
    events: list[Event] = []

    class Leader(PopulationTrainable):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, SPACE, [Node(2.0, 0.0)], str(tmp_path))

        def _on_event(self, event: Event) -> None:
            events.append(event)

    config = {"trial": {"trial_id": "00000", "sample": {"training.lr": 0.1}}}
    with monkeypatch.context() as patch:
        patch.setattr("graftpop.cluster.trainable.CheckpointWriter", LateStates)
        leader = Leader(config)
    before = Path(leader.logdir).name
    assert leader.reset(config)  # type: ignore[no-untyped-call]
    (event,) = events
    assert event.event == "checkpoint_skipped"
    assert before in event.cause


@pytest.mark.parametrize("reason", ["its predecessor still runs", "another version wrote its checkpoint"])
def test_trial_that_cannot_start_keeps_its_records(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "DEFAULT_STORAGE_PATH", str(tmp_path))
    monkeypatch.setattr("graftpop.cluster.trainable.PREDECESSOR_TIMEOUT_S", 0.1)

    class Leader(PopulationTrainable):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, SPACE, [Node(2.0, 0.0)], str(tmp_path))

    leader = Leader({"trial": {"trial_id": "00000", "sample": {"training.lr": 0.1}}})
    run, trial_id = RunFolder(str(tmp_path)), Path(leader.logdir).name
    records = TrialRecords(run.of_trials("records"), trial_id, [ACCURACY])
    records.add_event(Event(1, 0, "lost", "killed"))
    records.write()
    if reason == "its predecessor still runs":
        holds, is_over = threading.Event(), threading.Event()

        def hold() -> None:
            with run.of_trials("locks").locked(trial_id, 0):
                holds.set()
                is_over.wait()

        predecessor = threading.Thread(target=hold)
        predecessor.start()
        holds.wait()
        try:
            with pytest.raises(StorageError):
                leader.step()
        finally:
            is_over.set()
            predecessor.join()
    else:
        checkpoint = run.of_trials("checkpoints") / trial_id / "round-000001"
        checkpoint.create()
        checkpoint.write("population.json", b'{"format_version": 1}')
        assert "format_version" in leader.step()["error"]
    assert run.records_of("events", trial_id)["event"].to_pylist() == ["lost"]


def work_of(num_known: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how often the driver's main thread reads and writes files for ten trials after some others."""
    run = RunFolder(str(folder))
    recorder = recorder_of(run, num_known)
    run_trial(recorder, num_known)  # the first one joins the tables
    counts = dict.fromkeys(("open", "read_table", "read", "write", "write_tables", "names"), 0)

    def count(name: str) -> None:
        act = getattr(Folder, name)

        def counted(self: Folder, *arguments: Any, **options: Any) -> Any:
            counts[name] += threading.current_thread() is threading.main_thread()
            return act(self, *arguments, **options)

        patched.setattr(Folder, name, counted)

    with monkeypatch.context() as patched:
        for name in counts:
            count(name)
        for number in range(num_known + 1, num_known + 11):
            record_event(run, number)
            run_trial(recorder, number)
    recorder.finish()
    assert run.read_table("events")["trial_id"].to_pylist() == [
        f"{number:05}" for number in range(num_known + 11) if number != num_known
    ]
    assert len(run.of_trials("records").names()) <= 4 * (TRIALS_PER_FOLD + 2)
    return counts


def test_work_per_trial_does_not_depend_on_the_trials_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SHARE_OF_JOINING", 1e-9)  # due again after years
    assert work_of(80, tmp_path / "many", monkeypatch) == work_of(17, tmp_path / "few", monkeypatch)


def test_tables_that_were_not_due_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SHARE_OF_JOINING", 0.1)
    run = RunFolder(str(tmp_path))
    recorder = recorder_of(run, 0)
    for number in range(3):
        record_event(run, number)
        run_trial(recorder, number)
    end = time.monotonic() + 20
    while run.read_table("events").num_rows < 3 or run.read_table("trials").num_rows < 3:
        assert time.monotonic() < end
        recorder.on_step_begin(0, [])
        time.sleep(0.02)
    recorder.finish()


def test_state_is_written_at_each_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SHARE_OF_JOINING", 1e-9)
    recorder, before = recorder_of(RunFolder(str(tmp_path)), 2), time.time()
    for number in range(2, 5):
        run_trial(recorder, number)
        listed = json.loads((tmp_path / "tune/trials.json").read_text())
        assert [trial["status"] for trial in listed] == ["completed"] * (number + 1)
        assert all(before <= trial["started_at"] <= trial["ended_at"] <= time.time() for trial in listed[2:])
    recorder.finish()


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are written at every change; networks are removed only then."""
    monkeypatch.setattr(run_folder, "SHARE_OF_JOINING", 1e9)


def write_checkpoint(run: RunFolder, number: int, round: int, network: bytes, *, is_complete: bool = False) -> None:
    metadata = CheckpointMetadata(
        round=round,
        score=0.5,
        is_complete=is_complete,
        peers=[0],
        num_restarts={},
        summary={"round": round, "best_peer": 0},
        settings={},
    )
    checkpoints = Checkpoints(run.of_trials("checkpoints") / f"{number:05}")
    checkpoints.write(metadata, lambda: [("peer-0.safetensors", network)])


def trials_with_networks(folder: Path) -> list[str]:
    return sorted({path.parents[1].name for path in folder.rglob("checkpoints/**/peer-0.safetensors")})


def test_only_networks_of_the_best_completed_trial_are_kept_if_the_study_asks_for_it(
    tmp_path: Path, always_due: None
) -> None:
    run, space = RunFolder(str(tmp_path)), parse_space(TREE | {"tune": {"keep": "best"}})
    recorder = recorder_of(run, 0, space)
    network = Peer(SPACE.resolve({"training.lr": 0.1}), 0).save()
    left = []
    for number, score in enumerate([0.5, 0.9, 0.7, 0.9]):
        for round_ in (1, 2):
            write_checkpoint(run, number, round_, network, is_complete=round_ == 2)
        run_trial(recorder, number, REPORT | {"val_accuracy": score})
        left.append(trials_with_networks(tmp_path))
        listed = run.read_table("trials").to_pylist()
        best = max(listed, key=lambda row: row["val_accuracy"])
        assert best["trial_id"] in left[-1]  # a reader of the table finds the best network
    assert left == [["00000"], ["00001"], ["00001"], ["00001"]]
    rounds = [path.parent.name for path in tmp_path.rglob("00002/*/population.json")]
    assert sorted(rounds) == ["round-000001", "round-000002"]  # the record stays


def test_networks_written_after_the_end_of_their_trial_are_removed_at_the_end_of_the_study(
    tmp_path: Path, always_due: None
) -> None:
    """A trial that the scheduler stops writes its last round in the background; a killed study leaves networks too."""
    run, space = RunFolder(str(tmp_path)), parse_space(TREE | {"tune": {"keep": "best"}})
    recorder = recorder_of(run, 1, space)
    network = Peer(SPACE.resolve({"training.lr": 0.1}), 0).save()
    write_checkpoint(run, 0, 1, network)
    for number, (score, test) in enumerate([(0.9, 0.5), (0.7, None)], start=1):
        write_checkpoint(run, number, 1, network)
        run_trial(recorder, number, REPORT | {"val_accuracy": score, "test_accuracy": test})
    assert run.read_table("trials")["status"].to_pylist() == ["completed", "completed", "stopped"]
    assert trials_with_networks(tmp_path) == ["00000", "00001"]
    write_checkpoint(run, 2, 2, network)
    assert trials_with_networks(tmp_path) == ["00000", "00001", "00002"]
    recorder.finish()
    assert trials_with_networks(tmp_path) == ["00001"]


def test_networks_stay_while_the_table_still_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SHARE_OF_JOINING", 1e-9)  # due once, then again after years
    run = RunFolder(str(tmp_path))
    recorder = recorder_of(run, 0, parse_space(TREE | {"tune": {"keep": "best"}}))
    network = Peer(SPACE.resolve({"training.lr": 0.1}), 0).save()
    for number, score in enumerate([0.5, 0.9]):
        write_checkpoint(run, number, 1, network, is_complete=True)
        run_trial(recorder, number, REPORT | {"val_accuracy": score})
    assert [row["trial_id"] for row in run.read_table("trials").to_pylist()] == ["00000"]
    assert trials_with_networks(tmp_path) == ["00000", "00001"]
    recorder.finish()
    assert trials_with_networks(tmp_path) == ["00001"]


def test_networks_of_the_pareto_front_are_kept(tmp_path: Path, always_due: None) -> None:
    tune = {"keep": "best", "metric": ["val_accuracy", "flops"], "mode": ["max", "min"]}
    run, space = RunFolder(str(tmp_path)), parse_space(TREE | {"tune": tune})
    recorder = recorder_of(run, 0, space)
    network = Peer(SPACE.resolve({"training.lr": 0.1}), 0).save()
    for number, (score, flops) in enumerate([(0.9, 300), (0.7, 200), (0.6, 250)]):
        write_checkpoint(run, number, 1, network, is_complete=True)
        run_trial(recorder, number, REPORT | {"val_accuracy": score, "flops": flops})
    assert trials_with_networks(tmp_path) == ["00000", "00001"]
