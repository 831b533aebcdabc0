"""Progress of a study: table of trials, plain lines, remaining time, live table."""

import re
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from graftpop.cli import progress
from graftpop.cli.progress import LiveProgress, Pace, PlainProgress, trials_table, value_text
from graftpop.metrics import ACCURACY
from graftpop.study.trials import Trial

RESULT: dict[str, Any] = {
    "round": 6,
    "val_accuracy": 0.9123,
    "mean_val_accuracy": 0.9,
    "num_invalid_filters": 1.5,
    "images_per_s": 12345.6,
}


def trial(number: int, status: str = "running", **result: Any) -> Trial:
    return Trial(
        f"t{number}",
        number,
        {"population.num_peers": 2, "graft.A": 0.123456},
        num_rounds=12,
        status=status,
        result=result,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows its only entry."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def shown(*trials: Trial) -> list[list[str]]:
    """Return the cells of the table as it is printed, row by row."""
    console = Console(record=True, width=160, file=StringIO())
    console.print(trials_table(trials, [ACCURACY]))
    return [re.split(r" {2,}", line.strip()) for line in console.export_text().splitlines()]


# the table


def test_table_has_values_round_accuracy_and_speed() -> None:
    done = trial(1, "completed", **RESULT | {"round": 12, "test_accuracy": 0.875, "ensemble_test_accuracy": 0.9})
    header, running, completed = shown(trial(0, **RESULT), done)
    assert header == [
        "trial",
        "status",
        "num_peers",
        "A",
        "round",
        "val %",
        "mean val %",
        "test %",
        "ensemble %",
        "invalid",
        "images/s",
    ]
    assert running == ["0", "running", "2", "0.1235", "6/12", "91.23", "90.00", "1.5", "12,346"]
    assert completed == ["1", "completed", "2", "0.1235", "12/12", "91.23", "90.00", "87.50", "90.00", "1.5", "12,346"]


def test_table_has_no_cells_for_missing_measurements() -> None:
    assert shown(trial(0, "pending"))[1] == ["0", "pending", "2", "0.1235", "0/12"]


def test_key_that_does_not_matter_in_a_trial_is_a_dash() -> None:
    fixed = Trial("t1", 1, {"graft.alpha": None}, num_rounds=12)
    adaptive = Trial("t0", 0, {"graft.alpha": "adaptive", "graft.A": 0.25}, num_rounds=12)
    assert [row[2:4] for row in shown(adaptive, fixed)] == [["alpha", "A"], ["adaptive", "0.25"], ["null", "-"]]


def test_table_without_searched_keys_has_no_columns_for_them() -> None:
    alone = Trial("t0", 0, {}, num_rounds=12)
    assert shown(alone)[0][:3] == ["trial", "status", "round"]
    assert shown()[0][:3] == ["trial", "status", "round"]


def test_only_the_best_trial_is_bold() -> None:
    trials = [trial(0, val_accuracy=0.5), trial(1, val_accuracy=0.7), trial(2)]
    assert [row.style for row in trials_table(trials, [ACCURACY]).rows] == [None, "bold", None]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.123456, "0.1235"),
        (500.0, "500"),
        (1e-7, "1e-07"),
        (3, "3"),
        (12345, "12345"),
        ("adaptive", "adaptive"),
        (True, "True"),
    ],
)
def test_values_are_shown_with_four_digits(value: object, text: str) -> None:
    assert value_text(value) == text


# plain lines


def lines_of(*steps: list[Trial], num_trials: int = 2) -> list[str]:
    output = StringIO()
    with PlainProgress(Console(file=output, width=40), Pace(num_trials, 12, 12), [ACCURACY]) as watch:
        for trials in steps:
            watch(trials)
    return output.getvalue().splitlines()


def test_plain_lines_show_start_and_end_of_a_trial(clock: list[float]) -> None:
    end = RESULT | {"round": 12, "test_accuracy": 0.875, "ensemble_test_accuracy": 0.9}
    assert lines_of(
        [trial(0, "pending")],
        [trial(0)],
        [trial(0, **RESULT)],
        [trial(0, "completed", **end)],
        [trial(0, "completed", **end)],
    ) == [
        "trial 0 running  population.num_peers=2  graft.A=0.1235  round 0/12  [0/24 rounds]",
        "trial 0 completed  population.num_peers=2  graft.A=0.1235  round 12/12  val 91.23 %  test 87.50 %  "
        "ensemble 90.00 %  [12/24 rounds, 0:00:00 left]",
    ]


def test_running_trial_gets_a_line_every_ten_seconds(clock: list[float]) -> None:
    output = StringIO()
    watch = PlainProgress(Console(file=output, width=40), Pace(1, 12, 12), [ACCURACY])
    watch([trial(0)])
    rounds = []
    for number in range(1, 13):
        clock[0] += 4.0
        before = output.getvalue()
        watch([trial(0, **RESULT | {"round": number})])
        rounds += [number] * (output.getvalue() != before)
    assert rounds == [3, 6, 9, 12]


def test_waiting_trial_of_a_resumed_study_gets_no_lines(clock: list[float]) -> None:
    output = StringIO()
    watch = PlainProgress(Console(file=output, width=40), Pace(1, 12, 12), [ACCURACY])
    for _ in range(3):
        clock[0] += 20.0
        watch([trial(0, "pending", **RESULT)])
    assert output.getvalue() == ""


def test_failed_trial_is_shown_with_its_error(clock: list[float]) -> None:
    failed = trial(0, "failed")
    failed.error = "peer 1: lost in 'train': [its] process died"
    assert lines_of([failed]) == [
        "trial 0 failed  population.num_peers=2  graft.A=0.1235  round 0/12  "
        "[12/24 rounds]  peer 1: lost in 'train': [its] process died"
    ]


# time left


def test_remaining_time_follows_the_pace(clock: list[float]) -> None:
    pace = Pace(2, 12, 12)
    trials = [trial(0), trial(1)]
    assert pace.time_left(trials) == ""
    clock[0] += 60.0
    trials[0].result = {"round": 3}
    trials[1].result = {"round": 1}
    assert pace.time_left(trials) == "0:05:00 left"  # 20 rounds at 15 s


def test_trials_not_yet_created_count_as_the_longest(clock: list[float]) -> None:
    pace = Pace(3, 100, 100)
    trials = [trial(0)]
    assert (pace.rounds_done(trials), pace.total_rounds(trials)) == (0, 212)
    assert pace.time_left(trials) == ""
    clock[0] += 36.0
    trials[0].result = {"round": 12}
    assert pace.time_left(trials) == "0:10:00 left"  # 200 rounds at 3 s


def test_remaining_time_follows_the_epochs_of_all_peers(clock: list[float]) -> None:
    pace = Pace(3, 12, 48)
    alone, four = trial(0), trial(1)
    alone.num_epochs, four.num_epochs = 12, 48
    assert pace.time_left([alone, four]) == ""
    clock[0] += 24.0
    alone.result = {"round": 12}
    alone.status = "completed"
    assert pace.time_left([alone, four]) == "0:03:12 left"  # 48 + 48 epochs at 2 s


def test_stopped_trial_has_no_rounds_left(clock: list[float]) -> None:
    pace = Pace(2, 12, 12)
    trials = [trial(0, "stopped", round=4), trial(1, round=6)]
    assert (pace.rounds_done(trials), pace.total_rounds(trials)) == (18, 24)


def test_interrupted_trial_has_rounds_left(clock: list[float]) -> None:
    pace = Pace(2, 12, 12)
    trials = [trial(0, "interrupted", round=4), trial(1, round=6)]
    assert (pace.rounds_done(trials), pace.total_rounds(trials)) == (10, 24)


def test_pace_ignores_rounds_of_earlier_sessions(clock: list[float]) -> None:
    pace = Pace(2, 12, 12)
    trials = [trial(0, "completed", round=12), trial(1, round=2)]
    assert pace.time_left(trials) == ""
    clock[0] += 10.0
    trials[1].result = {"round": 3}
    assert pace.time_left(trials) == "0:01:30 left"  # 9 rounds at 10 s


def test_remaining_time_has_hours(clock: list[float]) -> None:
    pace = Pace(1, 12, 12)
    trials = [trial(0)]
    pace.time_left(trials)
    clock[0] += 3661.0
    trials[0].result = {"round": 6}
    assert pace.time_left(trials) == "1:01:01 left"


# the live table


def last_drawn(trials: list[Trial], num_trials: int) -> list[str]:
    """Return the last lines on the terminal."""
    output = StringIO()
    with LiveProgress(
        Console(width=160, height=60, file=output, force_terminal=True), Pace(num_trials, 12, 12), [ACCURACY]
    ) as watch:
        watch([trial(0)])
        watch(trials)
        output.truncate(0)
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip(" \r\0") for line in output.getvalue().splitlines()]


def test_live_table_has_trials_and_one_bar() -> None:
    lines = last_drawn([trial(0, **RESULT), trial(1, **RESULT)], num_trials=3)
    assert [line.split()[0] for line in lines[:4]] == ["trial", "0", "1", "study"]
    assert re.search(r"12/36 +rounds +24,691 images/s +\d:\d\d:\d\d left$", lines[3])


def test_live_table_shows_running_trials_and_counts_hidden_ones() -> None:
    over = [trial(number, "completed", **RESULT) for number in range(30)]
    running = [trial(number, **RESULT) for number in range(30, 35)]
    lines = last_drawn(over + running, num_trials=35)
    assert [line.split()[0] for line in lines[1:21]] == [str(number) for number in range(15, 35)]
    assert lines[21] == "and 15 more trials"
    assert lines[22].startswith("study")


def test_live_table_without_trials_is_the_bar_alone() -> None:
    lines = last_drawn([], num_trials=3)
    assert re.fullmatch(r"study .* 0/36 +rounds", lines[0])


def test_events_are_printed_once_above_the_live_table() -> None:
    replaced, stopped, failed, done, earlier = (trial(number, **RESULT) for number in range(5))
    earlier.status = "stopped"
    trials = [replaced, stopped, failed, done, earlier]
    output = StringIO()
    with LiveProgress(
        Console(width=160, height=60, file=output, force_terminal=True), Pace(5, 12, 12), [ACCURACY]
    ) as watch:
        watch(trials)
        replaced.events += [
            "round 7: peer 1 replaced after 8.1 s",
            "round 8: peer 0 reseeded: peer 0: diverged in epoch 8, training loss nan [...]",
        ]
        stopped.status, failed.status, done.status = "stopped", "failed", "completed"
        failed.error = "peer 0: diverged in epoch 7, training loss inf"
        watch(trials)
        watch(trials)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip(" \r") for line in output.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("trial ") and "status" not in line] == [
        "trial 0  round 7: peer 1 replaced after 8.1 s",
        "trial 0  round 8: peer 0 reseeded: peer 0: diverged in epoch 8, training loss nan [...]",
        "trial 1  stopped early by the scheduler, after round 6 of 12",
        "trial 2  failed: peer 0: diverged in epoch 7, training loss inf",
    ]
