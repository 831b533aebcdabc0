"""Run folders with one trial, written from a population in this process, and the code in an export's README."""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from space_makers import make_settings

from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.provenance import run_provenance
from graftpop.run.run_folder import RunFolder
from graftpop.settings import Settings

TRIAL = "00000"


def small_settings(**sections: Mapping[str, Any]) -> Settings:
    """Return settings of three small peers that train and graft for two rounds on 200 digits, with some changed."""
    return make_settings({"graft": {}}, **sections)


def trained_run(folder: Path, settings: Settings) -> dict[str, Any]:
    """Train a population and write its run; return the trial's last report."""
    population = Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)
    while True:
        done = population.step()
        if done.is_last:
            break
    summary = {"round": done.round, "epoch": settings.num_epochs, **population.finish(done)}
    write_run(folder, settings, dict(population.files()()), summary)
    return summary


def untrained_run(folder: Path, settings: Settings) -> None:
    """Write the run of untrained peers after the first of several rounds."""
    files = {f"peer-{peer}.safetensors": Peer(settings, peer).save() for peer in range(settings.population.num_peers)}
    write_run(folder, settings, files, {"round": 1, "epoch": 0, "best_peer": 0, settings.primary.val: 0.1})


def write_run(folder: Path, settings: Settings, files: Mapping[str, bytes], summary: dict[str, Any]) -> None:
    run, primary = RunFolder(str(folder), settings.metrics), settings.primary
    run.create()
    run.write_text("space.yaml", json.dumps({"name": settings.name, "task": settings.task.model_dump()}))
    run.write_text("run.json", json.dumps(run_provenance([], settings.seed)))
    is_complete = summary["round"] == settings.num_rounds
    peers = list(range(settings.population.num_peers))
    Checkpoints(run.of_trials("checkpoints") / TRIAL).write(
        CheckpointMetadata(
            round=summary["round"],
            score=primary.merit_of(summary),
            is_complete=is_complete,
            peers=peers,
            num_restarts={},
            summary=summary,
            settings=settings.model_dump(),
        ),
        files.items,
    )
    run.write_trials(
        [
            {
                "trial_id": TRIAL,
                "status": "completed" if is_complete else "interrupted",
                **{key: summary.get(key) for metric in settings.metrics for key in (metric.val, metric.test)},
            }
        ],
        {},
    )


def run_of_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python code of a README in its folder, and return its variables."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    return names
