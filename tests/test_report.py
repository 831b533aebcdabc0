"""The report page, from tables as a run leaves them."""

import re
from typing import Any

import pyarrow as pa
from typer.testing import CliRunner

from graftpop.__main__ import app
from graftpop.records import GRAFTS_SCHEMA, ROUNDS_SCHEMA
from graftpop.report_page import report_html

FACTS = {"started": "2026-01-01T00:00:00+00:00", "status": "finished", "command": ["python", "-m", "graftpop.tune"],
         "hardware": {"cores": 2, "processor": "A <processor>", "gpus": []}}
TRIALS = pa.schema([("trial_id", pa.string()), ("status", pa.string()), ("graft.A", pa.float64()),
                    ("val_accuracy", pa.float64()), ("test_accuracy", pa.float64()),
                    ("ensemble_test_accuracy", pa.float64())])


def page(trials: list[dict[str, Any]], rounds: list[dict[str, Any]], grafts: list[dict[str, Any]]) -> str:
    return report_html(pa.Table.from_pylist(trials, TRIALS), pa.Table.from_pylist(rounds, ROUNDS_SCHEMA),
                       pa.Table.from_pylist(grafts, GRAFTS_SCHEMA), space="name: a<b\n", facts=FACTS)


def test_a_run_without_a_round_has_a_report_that_says_so() -> None:
    html = page([], [], [])
    assert "No trial has finished a round yet." in html
    assert "No round is done yet." in html


def test_the_best_completed_trial_stands_out_and_its_best_peers_alpha_is_drawn() -> None:
    trials = [
        {"trial_id": "one", "status": "completed", "graft.A": 0.25, "val_accuracy": 0.5, "test_accuracy": 0.4,
         "ensemble_test_accuracy": 0.45},
        {"trial_id": "two", "status": "stopped", "graft.A": 0.5, "val_accuracy": 0.9},
    ]
    rounds = [{"trial_id": trial, "round": round_, "peer": peer, "val_accuracy": 0.1 * round_ + 0.01 * peer,
               "train_images": 100} for trial in ("one", "two") for round_ in (1, 2, 3) for peer in (0, 1)]
    grafts = [{"trial_id": "one", "round": round_, "receiver": receiver, "donor": 1 - receiver, "site": site,
               "alpha": 0.25 + 0.5 * receiver}
              for round_ in (1, 2) for receiver in (0, 1) for site in ("conv1", "<conv2>")]
    html = page(trials, rounds, grafts)
    (best,) = re.findall(r"<tr class=best>(.*?)</tr>", html)
    assert best.startswith("<td>one</td>")
    assert "test accuracy 40.00 %" in html
    assert html.count("<polyline class='best'") == 1
    assert html.count("<polyline class='other'") == 1
    assert "one: 31.00 %" in html  # the last point: the best peer of round 3
    assert "600</text>" in html  # images of both peers in three rounds
    assert re.findall(r"round \d: (0\.\d+)", html) == ["0.750"] * 4  # peer 1, two sites, two rounds
    assert "<conv2>" not in html
    assert "a<b" not in html


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Any) -> None:
    ended = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"error: {tmp_path}: is no run, it has no space.yaml")
