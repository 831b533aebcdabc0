"""Run folders with one trial, written from a population in this process."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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
    write_run(folder, settings, files, {"round": 1, "epoch": 0, "best_peer": 0, "val_accuracy": 0.1})


def write_run(folder: Path, settings: Settings, files: Mapping[str, bytes], summary: dict[str, Any]) -> None:
    run = RunFolder(str(folder))
    run.create()
    run.write_text("space.yaml", f"name: {settings.name}\n")
    run.write_text("run.json", json.dumps(run_provenance([], settings.seed)))
    is_complete = summary["round"] == settings.num_rounds
    peers = list(range(settings.population.num_peers))
    Checkpoints(run.of_trials("checkpoints") / TRIAL).write(
        CheckpointMetadata(
            round=summary["round"],
            score=summary["val_accuracy"],
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
                **{key: summary.get(key) for key in ("val_accuracy", "test_accuracy")},
            }
        ],
        {},
    )
