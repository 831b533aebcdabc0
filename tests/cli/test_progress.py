"""Progress of a study: table of trials, plain lines, remaining time, live table."""

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from graftpop.cli import progress
from graftpop.cli.progress import LiveProgress, Pace, PlainProgress
from graftpop.cli.study import print_interrupted, print_summary
from graftpop.cli.trial_table import TrialTable, value_text
from graftpop.metrics import ACCURACY
from graftpop.run.run_folder import RunFolder
from graftpop.space import parse_space
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


def printed(*trials: Trial, width: int = 160, is_whole: bool = False) -> list[str]:
    """Return the lines of the table as it is printed on a terminal of some width."""
    console = Console(record=True, width=width, file=StringIO())
    console.print(TrialTable(trials, [ACCURACY], is_whole=is_whole))
    return console.export_text().splitlines()


def shown(*trials: Trial, **options: Any) -> list[list[str]]:
    """Return the cells of the table as it is printed, row by row."""
    return [re.split(r" {2,}", line.strip()) for line in printed(*trials, **options)]


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


def test_keys_that_end_alike_have_their_whole_names() -> None:
    alike = trial(0, **RESULT)
    alike.sample = {**alike.sample, "model.name": "resnet8", "data.name": "digits"}
    assert shown(alike)[0][2:6] == ["num_peers", "A", "model.name", "data.name"]


def test_only_the_best_trial_is_bold() -> None:
    trials = [trial(0, val_accuracy=0.5), trial(1, val_accuracy=0.7), trial(2)]
    rows = Console(width=160).render_lines(TrialTable(trials, [ACCURACY]))[1:]
    assert [any(part.style and part.style.bold for part in row) for row in rows] == [False, True, False]


DONE = RESULT | {"round": 12, "test_accuracy": 0.875, "ensemble_test_accuracy": 0.9}


@pytest.mark.parametrize("width", [*range(16, 121, 8), 80])
def test_no_cell_is_cut_at_any_width(width: int) -> None:
    trials = trial(0, **RESULT), trial(1, "completed", **DONE), trial(2, "pending")
    everything = {cell for row in shown(*trials) for cell in row} | {"\u25b6", "\u2713", "\u00b7"}
    lines = printed(*trials, width=width)
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    for line in lines:
        assert {cell for cell in re.split(r" {2,}", line.strip()) if cell} <= everything


def test_narrow_table_keeps_the_columns_of_most_worth() -> None:
    trials = trial(0, **RESULT), trial(1, "completed", **DONE)
    heads = [shown(*trials, width=width)[0] for width in (80, 60, 40, 20)]
    assert heads == [
        ["trial", "num_peers", "A", "round", "val %", "mean val %", "test %", "ensemble %"],
        ["trial", "num_peers", "A", "round", "val %", "test %"],
        ["trial", "round", "val %", "test %"],
        ["trial", "val %"],
    ]
    running_only = shown(trials[0], width=80)[0]  # nothing is tested yet
    assert running_only == ["trial", "status", "num_peers", "A", "round", "val %", "mean val %", "invalid", "images/s"]


def test_whole_table_continues_below_with_all_columns() -> None:
    trials = trial(0, **RESULT), trial(1, "completed", **DONE)
    lines = printed(*trials, width=50, is_whole=True)
    assert max(map(len, lines)) <= 50
    blocks = [block.splitlines() for block in "\n".join(line.rstrip() for line in lines).split("\n\n")]
    heads = [re.split(r" {2,}", block[0].strip()) for block in blocks]
    assert len(heads) > 1
    assert {head[0] for head in heads} == {"trial"}
    assert ["trial", *(name for head in heads for name in head[1:])] == shown(*trials)[0]
    assert all(block[2].split()[0] == "1" for block in blocks)


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


def test_start_of_processes_does_not_count_as_training(clock: list[float]) -> None:
    pace = Pace(1, 12, 12)
    trials = [trial(0)]
    pace.time_left(trials)
    clock[0] += 60.0
    trials[0].result = {"round": 1, "time_s": 2.0}
    assert pace.time_left(trials) == "0:00:22 left"
    clock[0] += 4.0
    trials[0].result = {"round": 2, "time_s": 4.0}
    assert pace.time_left(trials) == "0:00:30 left"  # 6 s for two rounds


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


def test_live_table_follows_the_size_of_the_terminal() -> None:
    output = StringIO()
    console = Console(width=160, height=60, file=output, force_terminal=True)
    progress = LiveProgress(console, Pace(40, 12, 12), [ACCURACY])
    with progress as watch:
        watch([trial(number, **RESULT) for number in range(30)])
    for width, height, num_rows in ((160, 60, 20), (80, 24, 20), (60, 12, 8), (30, 6, 2)):
        console.size = ConsoleDimensions(width, height)
        lines = console.render_lines(progress, pad=False)
        assert len(lines) == num_rows + 3 <= max(height, 23)
        assert max(sum(part.cell_length for part in line) for line in lines) <= width


def test_stop_is_announced_at_once() -> None:
    for kind, is_terminal in ((LiveProgress, True), (PlainProgress, False)):
        output = StringIO()
        console = Console(width=160, file=output, force_terminal=is_terminal)
        with kind(console, Pace(1, 12, 12), [ACCURACY]) as watch:
            watch([trial(0, **RESULT)])
            output.truncate(0)
            watch.stopping()
            assert "stopping" in output.getvalue()


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


# the end of a study


def test_brackets_in_the_path_of_a_run_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(str(tmp_path / "lr[red]" / "[/b]"))
    print_summary([trial(0, "completed", **RESULT)], folder, parse_space({}))
    print_interrupted(folder)
    *_, network, tables, report, interrupted = capsys.readouterr().out.splitlines()
    assert network.startswith(f"network    {folder.location}/best,")
    assert tables.startswith(f"tables     {folder.location}/trials.parquet")
    assert report == f"report     {folder.location}/report.html"
    assert interrupted.startswith("interrupted; resume")
    assert interrupted.endswith(f" {folder.location}")
