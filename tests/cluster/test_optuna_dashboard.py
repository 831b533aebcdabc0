"""optuna-dashboard of a running study, in a real browser."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import browser

from graftpop.cluster.connection import Connection
from graftpop.cluster.study import run_study
from graftpop.run.run_folder import RunFolder
from graftpop.space import parse_space
from graftpop.study.trials import Trial

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

PLOTS = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => [plot.id, plot.data])"


@contextmanager
def dashboard_of(storage: str, folder: Path) -> Iterator[str]:
    """Yield the address of a dashboard of a storage."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), storage, "--port", str(port)]
    with (folder / "dashboard.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline, "optuna-dashboard did not answer within 60 s"
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def check_dashboard(address: str, trials: list[Trial], folder: Path) -> None:
    """Assert that the dashboard draws the current state of a study without errors."""
    from playwright.sync_api import expect

    completed = [trial for trial in trials if trial.status == "completed"]
    running = next(trial for trial in trials if trial.status == "running")
    best = max(completed, key=lambda trial: (trial.result["val_accuracy"], -trial.number))
    errors: list[str] = []
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1400, "height": 2100})
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/dashboard")
        page.get_by_text("run").first.click()
        expect(page.get_by_text(str(best.result["val_accuracy"]))).to_be_visible(timeout=30_000)
        expect(page.locator("#graph-hyperparameter-importances .bars path").first).to_be_visible(timeout=30_000)
        plots = dict(page.evaluate(PLOTS))
        page.screenshot(path=folder / "study.png")
        (history,) = [line for line in plots["plot-history"] if line["name"].startswith("val_accuracy")]
        assert history["y"] == [trial.result["val_accuracy"] for trial in completed]
        (importances,) = plots["graph-hyperparameter-importances"]
        assert sorted(importances["y"]) == ["graft.A", "graft.c"]
        by_round = {line["name"].strip(): line["x"] for line in plots["graph-intermediate-values"]}
        assert by_round[f"trial #{completed[0].number}"] == [1, 2]
        page.goto(f"{address}/dashboard/studies/1/trials?numbers={running.number}")
        title = f"Trial {running.number} (trial_id={running.number + 1})"
        expect(page.get_by_text(title)).to_be_visible(timeout=30_000)
        expect(page.get_by_text("Running").first).to_be_visible()
        page.screenshot(path=folder / "trials.png")
    assert errors == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Tune leaves its log files open
def test_optuna_dashboard_draws_a_running_study(connection: Connection, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    folder.create()
    wanted = parse_space(
        {
            "data": {"name": "digits", "max_train_images": 400},
            "model": {"name": "resnet8"},
            "training": {"epochs": 2},
            "population": {"num_peers": 2, "peers_per_actor": 2},
            "resources": {"cpus_per_peer": 1.25},  # one trial at a time; the next one reuses its process
            "graft": {"A": {"uniform": [0.0, 1.0]}, "c": {"loguniform": [1, 500]}},
            "tune": {"num_samples": 50, "optuna_storage": "sqlite:///study.db"},
        }
    )
    num_trials_drawn: list[int] = []

    def watch(trials: list[Trial]) -> None:
        statuses = [trial.status for trial in trials]
        if not num_trials_drawn and statuses.count("completed") >= 4 and "running" in statuses:
            with dashboard_of(f"sqlite:///{tmp_path}/run/study.db", tmp_path) as address:
                check_dashboard(address, trials, tmp_path)
            num_trials_drawn.append(len(trials))
            os.kill(os.getpid(), signal.SIGINT)

    run_study(wanted, folder, connection, watch)
    assert num_trials_drawn
