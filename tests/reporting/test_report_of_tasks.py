"""Report, comparison and terminal of tasks with other metrics than accuracy: several, or one to minimize."""

import re
from html import unescape
from io import StringIO
from typing import Any

import pytest
import yaml
from report_makers import figures_of, grafts_of, of_task, page, rounds_of, trial
from rich.console import Console

from graftpop.cli.progress import Pace, PlainProgress
from graftpop.cli.trial_table import TrialTable
from graftpop.comparison import compare_trials, comparison_markdown, comparison_tables
from graftpop.metrics import Metric
from graftpop.space import Space, parse_space
from graftpop.study.trials import Trial

REGRESSION = """
name: made-up
task: {name: "python:anywhere.Regression", metrics: {rmse: min, worst: min}}
data: {name: digits}
training: {epochs: 3}
population: {num_peers: 2}
graft: {A: {uniform: [0.0, 1.0]}, c: {loguniform: [1, 500]}}
"""
RECOGNITION = REGRESSION.replace(
    '{name: "python:anywhere.Regression", metrics: {rmse: min, worst: min}}', "recognition"
).replace("digits", "omniglot")
COMPARISON = """
name: made-up
task: {name: "python:anywhere.Regression", metrics: {rmse: min}}
data: {name: digits}
training: {total_epochs: 4}
seeds: [0, 1]
baseline: plain
variants: {plain: {population: {num_peers: 1}}, grafted: {graft: {}}}
"""
METRICS = (Metric("rmse", "min"), Metric("worst", "min"))


def regressed(trial_id: str, val: float | None, test: float | None = None, **others: Any) -> dict[str, Any]:
    scores = {"val_rmse": val, "val_worst": val and 2 * val, "test_rmse": test, "test_worst": test and 2 * test}
    ensemble = {"ensemble_test_rmse": test and test / 2, "ensemble_test_worst": test}
    return of_task(trial(trial_id, **others), **scores, **ensemble)


def rounds(trial_id: str, start: float) -> list[dict[str, Any]]:
    """Return rows in which peer p has an error of start / round + p."""
    return [of_task(row, val_rmse=start / row["round"] + row["peer"], val_worst=9.0) for row in rounds_of(trial_id)]


@pytest.fixture(scope="module")
def html() -> str:
    trials = [
        regressed("one", 2.5, 3.25, A=0.25),
        regressed("two", 0.5, 0.75),
        regressed("three", 7.0, status="stopped"),
    ]
    return page(trials, [*rounds("one", 7.5), *rounds("two", 1.5)], grafts_of("two"), space=REGRESSION)


def plot(html: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = figures_of(html)[name]["plot"]
    return found


# a metric to minimize


def test_trial_with_the_lowest_error_is_the_best(html: str) -> None:
    assert re.findall(r'<tr data-trial="(\w+)" class="best"', html) == ["two"]
    assert "<b>0.75</b> test rmse" in html
    assert "<b>0.5</b> validation rmse" in html
    assert "<b>1.5</b> test worst" in html


def test_curve_of_a_population_is_that_of_its_best_peer(html: str) -> None:
    traces = {trace["name"]: trace for trace in plot(html, "curves")["data"]}
    assert traces["best: two"]["y"] == pytest.approx([1.5, 0.75, 0.5])
    assert traces["2 peers"]["y"] == pytest.approx([7.5, 3.75, 2.5, None, 1.5, 0.75, 0.5, None])
    assert plot(html, "curves")["layout"]["yaxis"]["title"]["text"] == "validation rmse, lower is better"
    assert "tickformat" not in plot(html, "curves")["layout"]["yaxis"]
    assert "Rmse by images trained" in html


def test_best_lines_of_parallel_coordinates_are_on_top_and_orange(html: str) -> None:
    (lines,) = plot(html, "parallel")["data"]
    assert lines["dimensions"][-1]["values"] == [7.0, 2.5, 0.5]
    assert lines["line"]["color"] == [-7.0, -2.5, -0.5]
    assert lines["line"]["colorscale"][-1][1] == "#d55e00"
    assert lines["dimensions"][-1]["label"] == "val rmse"
    assert "0.5 to 7" in figures_of(html)["parallel"]["description"]


def test_curves_of_the_peers_have_the_metrics_values(html: str) -> None:
    assert "rmse ranges from 0.5 to 1.5" in figures_of(html)["trial/two/peers"]["description"]
    assert plot(html, "trial/two/peers")["layout"]["yaxis"]["title"]["text"].startswith("validation rmse")


def test_front_of_two_metrics_to_minimize_has_the_lowest_of_both() -> None:
    space = f"{REGRESSION}tune: {{metric: [auto, parameters]}}\n"
    trials = [
        regressed(name, val, val, parameters=number)
        for name, val, number in (("a", 1.0, 900), ("b", 2.0, 300), ("c", 3.0, 600), ("d", 0.5, 2000))
    ]
    page_ = page(trials, [row for name in "abcd" for row in rounds(name, 3.0)], space=space)
    others, front = plot(page_, "pareto")["data"]
    assert others["text"] == ["trial c"]
    assert front["text"] == ["trial b", "trial a", "trial d"]
    assert (front["x"], front["y"]) == ([300, 900, 2000], [2.0, 1.0, 0.5])
    assert re.findall(r"<tr>\s*<t[dh][^>]*>(\w)</t[dh]>", page_[page_.index('id="trade-offs"') :]) == ["d", "a", "b"]


# comparison


def comparison() -> tuple[Space, list[dict[str, Any]]]:
    space = parse_space(yaml.safe_load(COMPARISON))
    errors = {"plain": (2.0, 3.0), "grafted": (1.5, 2.25)}
    rows = [
        of_task(
            {key: value for key, value in trial(f"{variant}-{seed}").items() if not key.startswith("graft.")},
            val_rmse=error,
            test_rmse=error,
            ensemble_test_rmse=error,
        )
        | {"variant": variant, "seed": seed, "epochs": 2, "flops": None, "flops_left": None}
        for variant, both in errors.items()
        for seed, error in enumerate(both)
    ]
    return space, rows


def test_differences_are_in_the_metrics_unit_and_lower_is_better() -> None:
    space, rows = comparison()
    groups = compare_trials(rows, space)
    text = comparison_markdown(groups, None)
    assert "| test rmse |" in text
    assert "| 2.5 \u00b1 0.7071 |" in text
    assert "| -0.625 |" in text
    assert "lower rmse is better" in text
    assert "percentage points" not in text
    console = Console(record=True, width=160, file=StringIO())
    console.print(*comparison_tables(groups, None))
    terminal = console.export_text()
    assert "-0.625" in terminal
    assert "%" not in terminal.splitlines()[1].replace("95 %", "")
    page_ = page(rows, space=space.to_yaml())
    axis = plot(page_, "differences/0")["layout"]["xaxis"]["title"]["text"]
    assert axis == "difference from plain, lower is better"
    (seeds, mean) = plot(page_, "differences/0")["data"]
    assert sorted(seeds["x"]) == [-0.75, -0.5]
    assert mean["x"] == [-0.625]
    assert "A lower rmse is better" in unescape(page_)


# several metrics


def test_further_metrics_have_their_test_score_alone() -> None:
    scores = {
        f"{split}_{name}": 0.5
        for split in ("val", "test", "ensemble_test")
        for name in ("map", "rank1", "rank5", "rank10")
    }
    html = page(
        [of_task(trial("one"), **scores)], [of_task(row, val_map=0.5) for row in rounds_of("one")], space=RECOGNITION
    )
    heads = re.findall(r"<th[^>]*>(?:<button[^>]*>)?([^<]+)", html[html.index('id="trials"') :])
    shown = [head for head in heads if "mAP" in head or "rank" in head]
    assert shown == ["val mAP", "test mAP", "test rank-1", "test rank-5", "test rank-10", "ensemble test mAP"]
    assert "<b>50.00 %</b> test rank-1" in html
    assert "mAP by images trained" in html


# the terminal


def lines_of(metrics: tuple[Metric, ...], *trials: Trial) -> list[str]:
    console = Console(record=True, width=200, file=StringIO())
    console.print(TrialTable(trials, metrics))
    return console.export_text(styles=True).splitlines()


def ended(number: int, rmse: float) -> Trial:
    result = {"round": 2, "val_rmse": rmse, "mean_val_rmse": rmse + 1, "test_rmse": rmse + 2, "test_worst": rmse + 3}
    return Trial(f"t{number}", number, {"graft.A": 0.5}, num_rounds=2, status="completed", result=result)


def test_table_of_the_terminal_has_all_metrics_and_the_lowest_error_in_bold() -> None:
    head, high, low = lines_of(METRICS, ended(0, 7.5), ended(1, 0.25))
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line).split("  ") for line in (head, low)]
    names, cells = ([cell.strip() for cell in line if cell.strip()] for line in plain)
    assert [name for name in names if name.startswith(("val", "mean", "test"))] == [
        "val",
        "mean val",
        "test",
        "test worst",
    ]
    assert cells[-4:] == ["0.25", "1.25", "2.25", "3.25"]
    assert low.startswith("\x1b[1m")
    assert not high.startswith("\x1b[1m")


def test_plain_line_has_numbers_without_percent() -> None:
    out = StringIO()
    with PlainProgress(Console(file=out, width=200), Pace(1, 2, 2), METRICS) as show:
        show([ended(0, 0.25)])
    assert "val 0.25  test 2.25" in out.getvalue()
    assert "%" not in out.getvalue()
