"""Folders of runs with one trial, as a study leaves them, from a population in this process."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.provenance import run_provenance
from graftpop.run.tables import RunFolder
from graftpop.settings import Settings

TRIAL = "00000"


def small_settings(**sections: Mapping[str, Any]) -> Settings:
    """Return three small peers that train for two rounds on 200 digits, changed as told."""
    whole: dict[str, Mapping[str, Any]] = {
        "data": {"name": "digits", "max_train_images": 200},
        "model": {"name": "resnet8"},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.05, "schedule": "cosine", "precision": "float32"},
        "population": {"num_peers": 3},
        "graft": {},
    }
    return Settings.model_validate(
        whole | {name: {**whole.get(name, {}), **section} for name, section in sections.items()}
    )


def trained_run(folder: Path, settings: Settings) -> dict[str, Any]:
    """Train a population and write its run; return what the trial reported last."""
    population = Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)
    while True:
        done = population.step()
        if done.is_last:
            break
    summary = {"round": done.round, "epoch": settings.num_epochs, **population.finish(done)}
    write_run(folder, settings, dict(population.files()()), summary)
    return summary


def untrained_run(folder: Path, settings: Settings) -> None:
    """Write the run of peers as they begin, as if they had done the first round of several."""
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
