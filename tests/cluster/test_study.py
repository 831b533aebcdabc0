"""Whole studies on a real Ray: their files, searchers, schedulers, failures and interruptions."""

import html
import json
import math
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lost_parts import KilledForMemory
from network_makers import Faulty, TwoSites
from ray import tune
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from watchers import interrupt_at_round

import graftpop
from graftpop.cluster import heartbeats, room, tune_losses
from graftpop.cluster.connection import Connection
from graftpop.cluster.resources import Node
from graftpop.cluster.study import run_study
from graftpop.cluster.trainable import placement_of
from graftpop.cluster.tune_environment import common_environment
from graftpop.comparison import compare_trials
from graftpop.data import load_splits
from graftpop.errors import ResourceError
from graftpop.reporting.run_page import read_report_html
from graftpop.run.checkpoints import Checkpoints
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space, parse_space
from graftpop.study.trials import Trial

SMALL = {"name": f"python:{TwoSites.__module__}.{TwoSites.__name__}"}  # imported here, since loading imports nothing

ONE_PROCESS: dict[str, Any] = {"population": {"peers_per_actor": 2}, "resources": {"cpus_per_peer": 0.5}}
"""Both peers of a trial in one process, which saves starting another where nothing depends on it."""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def space(**changes: dict[str, Any]) -> Space:
    tree: dict[str, Any] = {
        "data": {"name": "digits", "max_train_images": 300},
        "model": SMALL,
        "training": {"epochs": 3, "batch_size": 128, "schedule": "cosine"},
        "population": {"num_peers": 2},
        "graft": {"A": {"uniform": [0.0, 1.0]}, "c": {"loguniform": [1, 500]}},
        "tune": {"sampler": "random", "num_samples": 2},
    }
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    return parse_space(tree)


def run(wanted: Space, connection: Connection, folder: Path, **options: Any) -> tuple[RunFolder, list[Trial]]:
    run_folder = RunFolder(str(folder))
    run_folder.create()
    return run_folder, run_study(wanted, run_folder, connection, options.pop("watch", lambda trials: None), **options)


def untimed(table: Any) -> list[dict[str, Any]]:
    timed = ("trial_id", "images_per_s", "train_s", "exchange_s")
    return table.drop_columns([name for name in timed if name in table.column_names]).to_pylist()


def test_study_writes_consistent_tables_and_its_best_network(connection: Connection, tmp_path: Path) -> None:
    wanted = space(
        data={"max_train_images": 200},
        model={"name": "resnet8"},
        population={"num_peers": {"choice": [2, 3]}, "peers_per_actor": 3},
        resources={"cpus_per_peer": 0.5},
        tune={"sampler": "tpe", "num_samples": 2},
    )
    _, trials = run(wanted, connection, tmp_path)
    assert [trial.status for trial in trials] == ["completed"] * 2
    assert len({(trial.sample["graft.A"], trial.sample["graft.c"]) for trial in trials}) == 2

    by_trial = {row["trial_id"]: row for row in pq.read_table(tmp_path / "trials.parquet").to_pylist()}
    assert list(by_trial) == [trial.trial_id for trial in trials]
    rounds = pq.read_table(tmp_path / "rounds.parquet").to_pylist()
    places = [(row["trial_id"], row["round"], row["peer"]) for row in rounds]
    assert sorted(places) == sorted(
        (trial_id, round_, peer)
        for trial_id, row in by_trial.items()
        for round_ in (1, 2, 3)
        for peer in range(row["population.num_peers"])
    )
    for trial_id, row in by_trial.items():
        last = [peer for peer in rounds if (peer["trial_id"], peer["round"]) == (trial_id, 3)]
        assert row["val_accuracy"] == max(peer["val_accuracy"] for peer in last)
        own = [peer for peer in rounds if peer["trial_id"] == trial_id]
        assert row["train_images"] == sum(peer["train_images"] for peer in own)
        assert row["peer_images"] * row["population.num_peers"] == row["train_images"]
        slowest = [
            max(peer["train_s"] + peer["exchange_s"] for peer in own if peer["round"] == round_) for round_ in (1, 2, 3)
        ]
        assert row["time_s"] == pytest.approx(sum(slowest))
        assert row["inference_flops"] == row["flops"]

        curve = EventAccumulator(str(tmp_path / "tune" / trial_id)).Reload().Scalars("ray/tune/val_accuracy")
        best = [
            max(peer["val_accuracy"] for peer in rounds if (peer["trial_id"], peer["round"]) == (trial_id, round_))
            for round_ in (1, 2, 3)
        ]
        assert [point.value for point in curve] == pytest.approx(best, abs=1e-7)
        assert curve[-1].step == row["train_images"]

    grafts = pq.read_table(tmp_path / "grafts.parquet").to_pylist()
    assert {row["round"] for row in grafts} == {1, 2}  # the last round does not graft
    for row in grafts:
        searched = by_trial[row["trial_id"]]
        gap = row["receiver_entropy_nats"] - row["donor_entropy_nats"]
        alpha = searched["graft.A"] / math.pi * math.atan(searched["graft.c"] * gap) + 0.5
        assert row["alpha"] == pytest.approx(alpha, abs=1e-12)
        assert row["donor"] == (row["receiver"] - 1) % searched["population.num_peers"]

    assert not list((tmp_path / "tune" / "locks").iterdir())  # complete trials need none
    metrics = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert metrics["measured"]["val_accuracy"] == max(row["val_accuracy"] for row in by_trial.values())
    network = graftpop.load(tmp_path / "best")
    test = load_splits(wanted.resolve().data, seed=0).test
    with torch.no_grad():
        batches = test.evaluation_batches(100, torch.device("cpu"))
        right = [network(images).argmax(1) == labels for images, labels in batches]
    assert torch.cat(right).double().mean().item() == pytest.approx(metrics["measured"]["test_accuracy"], abs=1e-12)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Tune leaves its log files open
def test_resumed_study_ends_with_the_same_bits(connection: Connection, tmp_path: Path) -> None:
    one_at_a_time = {"cpus_per_peer": 1.25}  # of four; the next trial reuses the process
    wanted = space(**ONE_PROCESS | {"resources": one_at_a_time}, training={"epochs": 5}, tune={"num_samples": 2})
    check_resuming(wanted, connection, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Tune leaves its log files open
def test_resumed_comparison_ends_with_the_same_bits(connection: Connection, tmp_path: Path) -> None:
    wanted = parse_space(
        {
            "data": {"name": "digits", "max_train_images": 600},
            "model": SMALL,
            "seeds": [3],
            "training": {"total_epochs": 10, "batch_size": 128, "schedule": "cosine"},
            "diagnostics": {"pairs": True},
            "variants": {
                "pruned": {"population": {"num_peers": 1}, "pruning": {"preset": "hard"}},
                "taught": {
                    "distillation": {"teachers": [{"model": "resnet8", "epochs": 2}]},
                    "graft": {"level": "filter"},
                    "mutual": {"exchange": "snapshots"},
                    "population": {"output": "ensemble"},
                },
            },
        }
    )
    check_resuming(wanted, connection, tmp_path)
    trials = {row["variant"]: row for row in pq.read_table(tmp_path / "resumed" / "trials.parquet").to_pylist()}
    assert trials["taught"]["test_accuracy"] == trials["taught"]["ensemble_test_accuracy"]
    assert trials["taught"]["train_images"] == 1.2 * trials["pruned"]["train_images"]
    assert 10 * trials["taught"]["peer_images"] == 7 * trials["pruned"]["peer_images"]  # 5 epochs and the teacher's 2
    assert trials["taught"]["inference_flops"] == 2 * trials["taught"]["flops"]
    assert trials["pruned"]["inference_flops"] == trials["pruned"]["flops_left"] < trials["pruned"]["flops"]
    assert trials["pruned"]["parameters_left"] < trials["pruned"]["parameters"]
    assert trials["taught"]["parameters_left"] is None
    (group,) = compare_trials(list(trials.values()), wanted)
    assert [line.variant for line in group.lines] == ["pruned", "taught"]
    assert any("images are not equal" in warning for warning in group.lines[1].warnings)


def check_resuming(wanted: Space, connection: Connection, folder: Path) -> None:
    """Run a study without and with an interruption after the second round; assert equal results.

    A damaged record of the interrupted trial loses nothing, because the joined table has its rows.
    """
    run(wanted, connection, folder / "whole")

    _, trials = run(wanted, connection, folder / "resumed", watch=interrupt_at_round(2))
    assert "interrupted" in {trial.status for trial in trials}
    left = pq.read_table(folder / "resumed" / "rounds.parquet").num_rows
    assert 0 < left < pq.read_table(folder / "whole" / "rounds.parquet").num_rows
    interrupted = next(trial for trial in trials if trial.status == "interrupted" and trial.round)
    damaged = folder / "resumed" / "tune" / "records" / f"{interrupted.trial_id}.rounds.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _, trials = run(wanted, connection, folder / "resumed")
    events = pq.read_table(folder / "resumed" / "events.parquet").to_pylist()
    assert [(row["trial_id"], row["event"]) for row in events] == [(interrupted.trial_id, "records_damaged")]
    assert str(damaged) in events[0]["cause"]
    assert any(str(damaged) in line for trial in trials for line in trial.events)
    assert [trial.status for trial in trials] == ["completed"] * wanted.num_trials()

    counted = ["trial_id", "train_images", "peer_images", "inference_flops"]
    whole, resumed = (
        pq.read_table(folder / part / "trials.parquet", columns=counted).to_pylist() for part in ("whole", "resumed")
    )
    assert resumed == whole
    assert all(row["peer_images"] for row in whole)
    assert all(trial.result["time_s"] < trial.wall_s for trial in trials)

    for name in ("rounds", "grafts", "diagnostics"):
        whole, resumed = (pq.read_table(folder / part / f"{name}.parquet") for part in ("whole", "resumed"))
        assert untimed(resumed) == untimed(whole)
    expected, got = (load_file(folder / part / "best" / "model.safetensors") for part in ("whole", "resumed"))
    assert got.keys() == expected.keys()
    assert all(got[name].equal(tensor) for name, tensor in expected.items())
    network = graftpop.load(folder / "resumed" / "best")
    assert all(network.state_dict()[name].equal(tensor) for name, tensor in got.items())


def test_asha_runs_the_whole_grid_and_tests_completed_trials(connection: Connection, tmp_path: Path) -> None:
    wanted = space(
        **ONE_PROCESS | {"resources": {"cpus_per_peer": 1}},  # two trials at a time; the next ones reuse the processes
        training={"epochs": 15, "lr": {"choice": [0.1, 1.0e-6]}},
        graft={"A": {"grid": [0.0, 0.4]}, "c": 500.0},
        tune={"sampler": "grid", "num_samples": None, "scheduler": "asha"},
    )
    _, trials = run(wanted, connection, tmp_path)
    assert sorted((trial.sample["training.lr"], trial.sample["graft.A"]) for trial in trials) == [
        (1.0e-6, 0.0),
        (1.0e-6, 0.4),
        (0.1, 0.0),
        (0.1, 0.4),
    ]
    assert {trial.status for trial in trials} == {"completed", "stopped"}
    for trial in trials:
        assert ("test_accuracy" in trial.result) == (trial.status == "completed")
    best = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert best["searched"]["training.lr"] == 0.1


def stay_together(trials: list[Trial]) -> None:
    """Slow down a study in which one trial is ahead of the other, which may still be starting."""
    rounds = [trial.round for trial in trials if not trial.is_over]
    if len(rounds) == 2 and max(rounds) - min(rounds) > 2:
        time.sleep(1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Tune leaves its log files open
def test_resumed_pbt_keeps_its_mutations_domains_and_rounds(connection: Connection, tmp_path: Path) -> None:
    wanted = space(
        **ONE_PROCESS,
        training={"epochs": 21, "lr": {"loguniform": [1.0e-4, 0.2]}, "schedule": "constant"},
        graft={"A": {"uniform": [0.3, 0.5]}, "c": 500.0},
        tune={"num_samples": 2, "scheduler": "pbt"},
    )
    _, trials = run(wanted, connection, tmp_path, watch=interrupt_at_round(8))
    before = {trial.trial_id: trial for trial in trials}
    assert "interrupted" in {trial.status for trial in trials}
    _, trials = run(wanted, connection, tmp_path, watch=stay_together)
    assert [trial.status for trial in trials] == ["completed"] * 2
    for trial in trials:
        assert 0.3 <= trial.sample["graft.A"] <= 0.5
        assert 1.0e-4 <= trial.sample["training.lr"] <= 0.2
    rounds = pq.read_table(tmp_path / "rounds.parquet").to_pylist()
    places = [(row["trial_id"], row["round"], row["peer"]) for row in rounds]
    assert sorted(places) == sorted(
        (trial.trial_id, round_, peer) for trial in trials for round_ in range(1, 22) for peer in (0, 1)
    )
    rates = {(row["trial_id"], row["round"]): row["lr"] for row in rounds}
    for trial_id, interrupted in before.items():
        assert rates[trial_id, interrupted.round + 1] == interrupted.sample["training.lr"]
    checkpoints = RunFolder(str(tmp_path)).of_trials("checkpoints")
    last = [next(Checkpoints(checkpoints / trial.trial_id).newest_first()).metadata for trial in trials]
    assert any(metadata.adopted for metadata in last)  # the worse trial continued from the better one's weights
    assert all((metadata.round, metadata.is_complete) == (21, True) for metadata in last)


def test_diverged_population_fails_with_its_peer_and_epoch(connection: Connection, tmp_path: Path) -> None:
    wanted = space(**ONE_PROCESS, training={"epochs": 3, "lr": 1.0e6}, tune={"num_samples": 1})
    _, (trial,) = run(wanted, connection, tmp_path)
    assert trial.status == "failed"
    assert re.fullmatch(r"peer \d: diverged in epoch \d, .*; choose a lower training.lr", trial.error)


def test_failed_trial_has_a_one_line_error(connection: Connection, tmp_path: Path) -> None:
    wanted = space(
        training={"epochs": 1}, tune={"num_samples": 1}, population={"round_timeout_s": 0.01, "max_peer_restarts": 0}
    )
    _, (trial,) = run(wanted, connection, tmp_path)
    assert trial.status == "failed"
    assert re.match(r"peer \d: did not finish '\w+' within 0\.01 s;.*population.deadline_factor", trial.error)
    assert [event.partition(": ")[2][:11] for event in trial.events] == ["peer 0 lost"]
    assert pq.read_table(tmp_path / "trials.parquet")["status"].to_pylist() == ["failed"]
    assert not (tmp_path / "best").exists()


def test_exception_of_user_code_fails_its_trial_at_once(connection: Connection, tmp_path: Path) -> None:
    model = {"name": f"python:{Faulty.__module__}.{Faulty.__name__}"}
    wanted = space(**ONE_PROCESS, model=model, graft={"A": 0.4, "c": 500.0}, tune={"num_samples": 1})
    folder, (trial,) = run(wanted, connection, tmp_path)
    assert (trial.status, trial.round, trial.events) == ("failed", 1, [])
    assert re.fullmatch(r"peer 0: .*ZeroDivisionError: no luck in step 5 \(network_makers\.py:\d+\)", trial.error)
    assert pq.read_table(tmp_path / "trials.parquet")["error"].to_pylist() == [trial.error]
    folder.write_text("space.yaml", wanted.to_yaml())
    assert trial.error in html.unescape(read_report_html(folder))


def test_study_without_domains_runs_one_population(connection: Connection, tmp_path: Path) -> None:
    """By tpe; `test_trial_lost_too_often_is_interrupted_and_resumable` runs one by `sampler: random`."""
    wanted = space(
        **ONE_PROCESS,
        data={"max_train_images": 200},
        training={"epochs": 1},
        graft={"A": 0.4, "c": 500.0},
        tune={"sampler": "tpe", "num_samples": 1},
    )
    _, (trial,) = run(wanted, connection, tmp_path)
    assert (trial.status, trial.trial_id, trial.sample) == ("completed", "00000", {})


def test_trial_lost_too_often_is_interrupted_and_resumable(connection: Connection, tmp_path: Path) -> None:
    wanted = space(**ONE_PROCESS, graft={"A": 0.4, "c": 500.0}, tune={"num_samples": 1, "max_failures": 0})
    killed: list[int] = []

    def kill(trials: list[Trial]) -> None:
        if trials and trials[0].round == 1 and not killed:
            killed.append(int(trials[0].result["pid"]))
            os.kill(killed[0], signal.SIGKILL)

    folder, (lost,) = run(wanted, connection, tmp_path, watch=kill)
    assert (lost.status, lost.round) == ("interrupted", 1)
    assert lost.error
    _, (trial,) = run(wanted, connection, tmp_path)
    assert (trial.status, trial.round, trial.error) == ("completed", 3, "")
    assert (trial.trial_id, trial.sample) == ("00000", {})
    rounds = [(row["round"], row["peer"]) for row in folder.read_table("rounds").to_pylist()]
    assert rounds == [(round_, peer) for round_ in (1, 2, 3) for peer in (0, 1)]


def test_error_of_an_observer_ends_the_study_as_it_is(connection: Connection, tmp_path: Path) -> None:
    """Such as standard output that can no longer be written."""

    def fail(trials: list[Trial]) -> None:
        if trials[0].round and trials[0].status == "running":
            raise LookupError("nobody reads this")

    with pytest.raises(LookupError, match="nobody reads this"):
        run(space(**ONE_PROCESS, tune={"num_samples": 1}), connection, tmp_path, watch=fail)
    assert pq.read_table(tmp_path / "trials.parquet")["status"].to_pylist() == ["interrupted"]


@pytest.mark.nodes
def test_leader_that_no_longer_runs_is_lost(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_S", 0.2)
    monkeypatch.setattr(heartbeats, "SILENT_LOOKS", 10)
    wanted = space(
        **ONE_PROCESS, training={"epochs": 30}, graft={"A": 0.4, "c": 500.0}, tune={"num_samples": 1, "max_failures": 0}
    )
    stopped: list[int] = []

    def stop(trials: list[Trial]) -> None:
        if trials and trials[0].round == 1 and not stopped:
            stopped.append(int(trials[0].result["pid"]))
            os.kill(stopped[0], signal.SIGSTOP)

    _, (lost,) = run(wanted, connection, tmp_path, watch=stop)
    assert lost.status == "interrupted"
    assert "heartbeat" in lost.error
    assert f"pid {stopped[0]} " in lost.error


def test_memory_kill_is_a_failure_of_its_trial_which_has_no_environment_of_its_own(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del connection
    monkeypatch.setattr(tune_losses, "MEMORY_PAUSE_S", 0.1)
    with tune_losses.losses_counted({}), common_environment():
        analysis = tune.run(
            KilledForMemory,
            config={"was_killed": str(tmp_path / "was_killed")},
            storage_path=str(tmp_path),
            max_failures=1,
            verbose=0,
        )
    (trial,) = analysis.trials
    assert (trial.status, trial.num_failures) == ("TERMINATED", 1)
    assert trial.last_result["environment"] == {}
    assert "training.batch_size" in Path(trial.error_file).read_text()


def test_shrinking_population_is_led_from_the_drivers_node(connection: Connection, tmp_path: Path) -> None:
    wanted = space(training={"epochs": 1}, population={"min_peers": 1}, tune={"num_samples": 1})
    config = {"trial": {"sample": {"graft.A": 0.4, "graft.c": 5.0}}}
    assert placement_of(space(), config, connection).bundles == 2 * [{"CPU": 1.0}]  # none for the leading process
    assert placement_of(wanted, config, connection).bundles == [{connection.here: 1e-4}, *2 * [{"CPU": 1.0}]]
    assert [trial.status for trial in run(wanted, connection, tmp_path)[1]] == ["completed"]


@pytest.mark.nodes
def test_study_without_room_ends_and_is_resumable(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster has half the CPUs that the request was computed for."""
    monkeypatch.setattr(room, "ROOM_TIMEOUT_S", 3.0)
    larger = Connection([Node(2 * node.cpus, node.gpus) for node in connection.nodes], "", connection.here)
    wanted = space(training={"epochs": 1}, population={"num_peers": 8}, tune={"num_samples": 1})
    with pytest.raises(ResourceError, match=r"room on the cluster for 3 s.*--resume"):
        run(wanted, larger, tmp_path)
    assert pq.read_table(tmp_path / "trials.parquet")["status"].to_pylist() == ["interrupted"]


@pytest.mark.nodes
def test_trial_without_room_ends_while_others_complete(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, with one trial that fits beside the one that does not."""
    monkeypatch.setattr(room, "ANNOUNCED_AFTER_S", 0.5)

    def shorten(trials: list[Trial]) -> None:
        if any(trial.status == "running" for trial in trials):
            monkeypatch.setattr(room, "ROOM_TIMEOUT_S", 1.5)

    larger = Connection([Node(2 * node.cpus, node.gpus) for node in connection.nodes], "", connection.here)
    wanted = space(
        training={"epochs": 1},
        population={"num_peers": {"grid": [8, 2]}},
        graft={"A": 0.4, "c": 500.0},
        tune={"sampler": "grid", "num_samples": None},
    )
    _, (large, small) = run(wanted, larger, tmp_path, watch=shorten)
    assert (small.status, small.round) == ("completed", 1)
    assert (large.status, large.round) == ("interrupted", 0)
    for text in (large.error, *large.events):
        assert "8 processes of 1 CPU" in text
        assert "1 node, 4 CPU" in text
    assert len(large.events) == 1
