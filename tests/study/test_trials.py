"""Trials: rows of the table, the best trial, column types and JSON."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest

from graftpop.errors import CheckpointError
from graftpop.metrics import ACCURACY
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.run_folder import RunFolder
from graftpop.space import Domain, parse_space
from graftpop.study.trials import (
    Trial,
    best_trial,
    column_types,
    duration,
    recovered_trials,
    restored_row,
    trials_from_json,
    trials_to_json,
)


def trial(number: int, status: str = "completed", **result: Any) -> Trial:
    return Trial(f"t{number}", number, {"graft.A": 0.25}, num_rounds=12, status=status, result=result)


def number_of_best(*trials: Trial) -> int | None:
    best = best_trial(trials, ACCURACY)
    return None if best is None else best.number


def test_best_trial_has_the_highest_validation_accuracy() -> None:
    assert number_of_best(*(trial(number, val_accuracy=value) for number, value in enumerate([0.5, 0.9, 0.7]))) == 1


def test_first_of_equal_trials_is_the_best() -> None:
    assert number_of_best(*(trial(number, val_accuracy=0.5) for number in range(3))) == 0


@pytest.mark.parametrize("status", ["pending", "running", "stopped", "failed", "interrupted"])
def test_completed_trial_comes_before_a_better_incomplete_one(status: str) -> None:
    """Only a completed trial has a test accuracy."""
    assert number_of_best(trial(0, status, val_accuracy=0.9), trial(1, val_accuracy=0.5)) == 1


def test_without_completed_trials_the_best_of_the_others_counts() -> None:
    assert (
        number_of_best(trial(0, "failed", val_accuracy=0.6), trial(1, "stopped", val_accuracy=0.8), trial(2, "running"))
        == 1
    )


def test_test_accuracy_does_not_affect_the_best_trial() -> None:
    assert (
        number_of_best(trial(0, val_accuracy=0.6, test_accuracy=0.9), trial(1, val_accuracy=0.7, test_accuracy=0.1))
        == 1
    )


def test_without_a_measured_trial_there_is_no_best_trial() -> None:
    assert best_trial([], ACCURACY) is None
    assert best_trial([trial(0, "failed"), trial(1, "pending")], ACCURACY) is None


LATENCIES = ("latency_1_ms", "latency_1_left_ms", "latency_128_ms", "latency_128_left_ms")
UNKNOWN_COST = dict.fromkeys(
    ("parameters", "flops", "removed_filters", "parameters_left", "flops_left", *LATENCIES, "inference_flops")
)


def test_trial_with_accuracy_0_is_measured() -> None:
    assert number_of_best(trial(0), trial(1, val_accuracy=0.0)) == 1


def test_row_has_the_searched_values_and_the_last_report() -> None:
    done = trial(
        3,
        val_accuracy=0.5,
        test_accuracy=0.4,
        ensemble_test_accuracy=0.45,
        num_peers=2,
        epoch=24,
        train_images=900,
        peer_images=450,
        time_s=6.25,
        round=12,
        images_per_s=5.0,
    )
    done.wall_s = 7.5
    done.started_at = datetime(2026, 5, 4, 12, 0, tzinfo=UTC).timestamp()
    done.ended_at = done.started_at + 8
    assert done.row([ACCURACY]) == {
        "trial_id": "t3",
        "status": "completed",
        "graft.A": 0.25,
        "val_accuracy": 0.5,
        "test_accuracy": 0.4,
        "ensemble_test_accuracy": 0.45,
        "num_peers": 2,
        "train_images": 900,
        "peer_images": 450,
        "time_s": 6.25,
        "epochs": 24,
        "wall_s": 7.5,
        "started_at": datetime(2026, 5, 4, 12, 0, tzinfo=UTC),
        "ended_at": datetime(2026, 5, 4, 12, 0, 8, tzinfo=UTC),
        "error": None,
        **UNKNOWN_COST,
    }
    assert done.round == 12


def test_row_before_the_first_round_has_no_measurements() -> None:
    started = trial(0, "running")
    assert started.row([ACCURACY]) == {
        "trial_id": "t0",
        "status": "running",
        "graft.A": 0.25,
        "val_accuracy": None,
        "test_accuracy": None,
        "ensemble_test_accuracy": None,
        "num_peers": None,
        "train_images": None,
        "peer_images": None,
        "time_s": None,
        "epochs": 0,
        "wall_s": 0.0,
        "started_at": None,
        "ended_at": None,
        "error": None,
        **UNKNOWN_COST,
    }
    assert started.round == 0


def test_resumed_trial_keeps_its_first_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 150.0, 200.0])
    monkeypatch.setattr("graftpop.study.trials.time", SimpleNamespace(time=lambda: next(now)))
    one = trial(0, "pending")
    one.start()
    one.end("interrupted")
    assert (one.status, one.started_at, one.ended_at) == ("interrupted", 100.0, 150.0)
    one.wait()
    assert (one.status, one.started_at, one.ended_at) == ("pending", 100.0, None)
    one.start()
    assert (one.status, one.started_at, one.ended_at) == ("running", 100.0, None)
    one.end("completed")
    assert (one.status, one.started_at, one.ended_at) == ("completed", 100.0, 200.0)
    never = trial(1, "pending")
    never.end("interrupted")
    assert (never.status, never.started_at, never.ended_at) == ("interrupted", None, None)


def test_row_has_the_cost_of_the_whole_and_of_the_cut_network() -> None:
    cost: dict[str, Any] = {name: number for number, name in enumerate(UNKNOWN_COST, start=1)}
    row = trial(0, **cost).row([ACCURACY])
    assert {name: row[name] for name in cost} == cost


@pytest.mark.parametrize(
    ("status", "is_over"),
    [
        ("pending", False),
        ("running", False),
        ("completed", True),
        ("stopped", True),
        ("failed", True),
        ("interrupted", True),
    ],
)
def test_trial_is_over_unless_it_is_pending_or_running(status: str, is_over: bool) -> None:
    assert trial(0, status).is_over is is_over


@pytest.mark.parametrize(
    ("domain", "kind"),
    [
        (Domain("choice", (2, 3)), pyarrow.int64()),
        (Domain("randint", (2, 8)), pyarrow.int64()),
        (Domain("choice", (True, False)), pyarrow.bool_()),
        (Domain("uniform", (0, 1)), pyarrow.float64()),
        (Domain("loguniform", (1, 500)), pyarrow.float64()),
        (Domain("quniform", (0, 4, 2)), pyarrow.float64()),
        (Domain("choice", (1, 0.5)), pyarrow.float64()),
        (Domain("choice", ("adaptive", 0.5)), pyarrow.string()),
        (Domain("choice", ("resnet8", "resnet20")), pyarrow.string()),
        (Domain("choice", (None, {"alpha": 0.5})), pyarrow.string()),
        (Domain("grid", (1, 2, None)), pyarrow.int64()),
    ],
)
def test_column_of_numbers_is_numeric(domain: Domain, kind: object) -> None:
    assert column_types({"key": domain}) == {"key": kind}


def test_trials_survive_a_round_trip_through_json() -> None:
    trials = [
        Trial("00000", 0, {"graft.alpha": "adaptive", "graft.A": 0.1 + 0.2}, 12, "completed", {"round": 12}, 1.5),
        Trial(
            "00001",
            1,
            {"distillation.teachers": [{"model": "resnet8", "epochs": 2}], "graft": None},
            12,
            "failed",
            error="peer 1: lost",
            events=["round 3: peer 1 lost"],
        ),
        Trial("00002", 2, {"variant": "plain", "seed": 2**62}, 3),
    ]
    assert trials_from_json(trials_to_json(trials)) == trials


def test_trials_are_recovered_from_their_table_and_checkpoints(tmp_path: Path) -> None:
    space = parse_space(
        {
            "data": {"name": "digits"},
            "model": {"name": "resnet8"},
            "training": {"epochs": 12},
            "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0, 1]}, "c": {"choice": [5, 500]}},
            "tune": {"num_samples": 3},
        }
    )
    summary = {"round": 12, "epoch": 12, "val_accuracy": 1 / 3, "num_peers": 2, "best_peer": 1}
    trials = [
        Trial(
            "00000",
            0,
            {"graft.alpha": "adaptive", "graft.A": 0.1 + 0.2, "graft.c": 5},
            12,
            "completed",
            summary,
            1.5,
            num_epochs=24,
        ),
        Trial("00001", 1, {"graft.alpha": 0.5}, 12, "failed", {}, 0.0, "peer 0: lost", num_epochs=24),
    ]
    folder = RunFolder(str(tmp_path))
    folder.write_trials([trial.row([ACCURACY]) for trial in trials], column_types(space.domains))
    metadata = CheckpointMetadata(
        round=12, score=1 / 3, is_complete=True, peers=[0], num_restarts={}, summary=summary, settings={}
    )
    Checkpoints(folder.of_trials("checkpoints") / "00000").write(metadata, tuple)
    assert recovered_trials(folder, space) == trials

    folder.write_text("trials.parquet", "cut")
    with pytest.raises(CheckpointError, match=r"trials\.parquet: .*; .*remove it"):
        recovered_trials(folder, space)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.4, "0:00:59"), (59.6, "0:01:00"), (3599, "0:59:59"), (7323, "2:02:03"), (90_061, "25:01:01")],
)
def test_duration_has_hours_minutes_and_rounded_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("domain", "in_file", "value"),
    [
        (Domain("choice", ("adaptive", 0.5)), "0.5", 0.5),
        (Domain("choice", ("adaptive", 0.5)), "adaptive", "adaptive"),
        (Domain("choice", (None, {"alpha": 0.5})), "{'alpha': 0.5}", {"alpha": 0.5}),
        (Domain("choice", (None, {"alpha": 0.5})), None, None),
        (Domain("uniform", (0, 1)), 0.3, 0.3),
        (Domain("uniform", (0, 1)), 1.0, 1.0),
        (Domain("loguniform", (0.1, 1)), 0.3, 0.3),
        (Domain("randint", (0, 2**63 - 1)), 2**62, 2**62),
        (Domain("randint", (0, 2**63 - 1)), None, None),
    ],
)
def test_restored_row_has_the_original_values(domain: Domain, in_file: Any, value: Any) -> None:
    row = {"trial_id": "a", "key": in_file}
    restored = restored_row(row, {"key": domain})
    assert restored == {"trial_id": "a", "key": value}
    assert type(restored["key"]) is type(value)


@pytest.mark.parametrize("text", ["", "{", "{}", '[{"trial_id": 3}]', "[" * 10**5, "null", '["a"]'])
def test_invalid_trials_file_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^tune/trials\.json: [^\n]*$"):
        trials_from_json(text)


@pytest.mark.parametrize(
    ("status", "is_over", "is_final"),
    [
        ("pending", False, False),
        ("running", False, False),
        ("interrupted", True, False),
        ("completed", True, True),
        ("stopped", True, True),
        ("failed", True, True),
    ],
)
def test_interrupted_trial_is_over_but_not_final(status: str, is_over: bool, is_final: bool) -> None:
    assert (trial(0, status).is_over, trial(0, status).is_final) == (is_over, is_final)
