"""The README's set-up commands, and the study of the first one, shortened."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import graftpop

ROOT = Path(__file__).parents[2]
SHORTER = ["--num-samples", "2", "--set", "training.epochs=8", "--set", "population.num_peers=2"]
"""Added to the README's command: two of its trials, with fewer epochs and peers."""
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if "pip install" in line
]


def test_readme_has_two_set_up_commands() -> None:
    assert len(SET_UP) == 2
    study, tests = SET_UP
    assert study.endswith("python -m graftpop.tune --space search_spaces/digits.yaml")
    assert tests.endswith("python -m pytest")


def test_files_named_in_the_readme_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    spaces = set(re.findall(r"search_spaces/\w+\.yaml", README))
    assert {path for path in spaces if not (ROOT / path).exists()} == set()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_first_command_writes_a_complete_run_and_a_good_network(tmp_path: Path) -> None:
    command = shlex.split(SET_UP[0].rpartition("&&")[2])[1:]
    run = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": "."}
    ended = subprocess.run(
        [sys.executable, *command, *SHORTER, "--out", str(run)],
        cwd=ROOT,
        env=environment,
        timeout=280,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    checking, starting, loading, sites, dashboard, folder = ended.stdout.splitlines()[:6]
    assert checking.split() == ["checking", "search_spaces/digits.yaml"]
    assert loading.split() == ["loading", "digits"]
    assert sites.split()[:3] == ["sites", "resnet8:", "7"]
    assert starting.split()[:2] == ["starting", "Ray"]
    assert re.match(r"dashboard  http://\S+:\d+  .*ray get-auth-token", dashboard)
    assert folder.split() == ["run", str(run)]

    assert {path.name for path in run.iterdir()} == {
        "space.yaml",
        "run.json",
        "trials.parquet",
        "rounds.parquet",
        "grafts.parquet",
        "diagnostics.parquet",
        "events.parquet",
        "best",
        "report.html",
        "tune",
    }
    assert {path.name for path in (run / "best").iterdir()} == {"model.safetensors", "config.json", "metrics.json"}
    trials = pq.read_table(run / "trials.parquet").to_pylist()
    assert [row["status"] for row in trials] == ["completed"] * 2
    best = json.loads((run / "best" / "metrics.json").read_text())["measured"]
    assert best["test_accuracy"] > 0.85  # of 300 training images, in 8 epochs
    assert max(row["val_accuracy"] for row in trials) == best["val_accuracy"]
    report = (run / "report.html").read_text()
    assert all(row["trial_id"] in report for row in trials)
    page = re.sub(r"<(pre|script)[ >].*?</\1>", "", report, flags=re.DOTALL)  # test_report_browser covers the scripts
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "http" not in page
    assert not graftpop.load(run / "best").training
