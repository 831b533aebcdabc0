"""Made-up tables of a run, and the report made from them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from graftpop.reporting.run_page import report_html
from graftpop.reporting.run_tables import Tables
from graftpop.run.schemas import schemas
from graftpop.space import parse_space

SPACE = """
name: made-up
data: {name: digits}
training: {epochs: 3}
population: {num_peers: 2}
graft: {A: {uniform: [0.0, 1.0]}, c: {loguniform: [1, 500]}}
"""
COMPARED = """
name: made-up
data: {name: digits}
training: {total_epochs: 4}
seeds: [0, 1]
variants: {%s}
compare: {equal: epochs}
"""
PROVENANCE = {
    "started": "2026-01-01T00:00:00+00:00",
    "status": "finished",
    "command": ["python", "-m", "graftpop.tune"],
    "versions": {"ray": "2"},
    "git": None,
    "hardware": {"cores": 2, "processor": "A <processor>", "gpus": []},
}
SITES = ("conv1", "layer1.<conv>")


def trial(
    trial_id: str,
    *,
    status: str = "completed",
    val_accuracy: float | None = 0.5,
    A: float = 0.4,
    c: float = 100.0,
    **others: Any,
) -> dict[str, Any]:
    """Return a row of `trials.parquet`."""
    return {
        "trial_id": trial_id,
        "status": status,
        "graft.A": A,
        "graft.c": c,
        "val_accuracy": val_accuracy,
        "test_accuracy": None,
        "ensemble_test_accuracy": None,
        "num_peers": 2,
        "train_images": 600,
        "wall_s": 3.0,
        **others,
    }


def rounds_of(trial_id: str, *, num_rounds: int = 3, num_peers: int = 2, images: int = 100) -> list[dict[str, Any]]:
    """Return a trial's rows of `rounds.parquet`; in round r, peer p reaches min(0.9, 0.1 r) + 0.01 p."""
    return [
        {
            "trial_id": trial_id,
            "round": round_,
            "peer": peer,
            "train_images": images,
            "train_loss": 1 / round_,
            "val_accuracy": min(0.9, 0.1 * round_) + 0.01 * peer,
        }
        for round_ in range(1, num_rounds + 1)
        for peer in range(num_peers)
    ]


def grafts_of(
    trial_id: str, *, num_rounds: int = 3, num_peers: int = 2, staleness: int = 0, sites: Sequence[str] = SITES
) -> list[dict[str, Any]]:
    """Return a trial's rows of `grafts.parquet` in a ring; alpha is 0.25 for peer 0 and 0.75 for the others."""
    return [
        {
            "trial_id": trial_id,
            "round": round_,
            "receiver": receiver,
            "donor": (receiver - 1) % num_peers,
            "site": site,
            "receiver_entropy_nats": 1.5 + 0.1 * receiver,
            "donor_entropy_nats": 1.6,
            "alpha": 0.75 if receiver else 0.25,
            "num_invalid_before": 3,
            "num_invalid_after": 1,
            "staleness": staleness,
        }
        for round_ in range(1, num_rounds)
        for receiver in range(num_peers)
        for site in sites
    ]


def of_task(row: Mapping[str, Any], **values: float | None) -> dict[str, Any]:
    """Return a row with columns of a task's metrics in place of those of accuracy."""
    return {key: value for key, value in row.items() if "accuracy" not in key} | values


def page(
    trials: Sequence[Mapping[str, Any]],
    rounds: Sequence[Mapping[str, Any]] = (),
    grafts: Sequence[Mapping[str, Any]] = (),
    *,
    diagnostics: Sequence[Mapping[str, Any]] = (),
    events: Sequence[Mapping[str, Any]] = (),
    space: str = SPACE,
    options: Sequence[str] = (),
) -> str:
    """Return the report page of a run with these rows, started with these options."""
    columns = dict.fromkeys(key for row in trials or [trial("none")] for key in row)
    recorded = schemas(parse_space(yaml.safe_load(space)).metrics)
    return report_html(
        Tables(
            *(
                pa.Table.from_pylist(list(rows), schema)
                for rows, schema in (
                    (trials, _schema(trials, list(columns))),
                    (rounds, recorded["rounds"]),
                    (grafts, recorded["grafts"]),
                    (diagnostics, recorded["diagnostics"]),
                    (events, recorded["events"]),
                )
            )
        ),
        space=space,
        provenance={**PROVENANCE, "command": ["python", "-m", "graftpop.tune", *options]},
    )


def compared(
    scores: Mapping[str, Sequence[float]],
    space: str = COMPARED,
    rounds: Sequence[Mapping[str, Any]] = (),
    **costs: Mapping[str, float | None],
) -> str:
    """Return a report of variants with scores by seed, with costs by column and variant, and rounds of VARIANT-SEED."""
    text = space % ", ".join(f"{name}: {{}}" for name in scores)
    rows = [
        {key: value for key, value in trial(f"{variant}-{seed}").items() if not key.startswith("graft.")}
        | {"variant": variant, "seed": seed, "val_accuracy": score, "test_accuracy": score, "epochs": 4}
        | {"train_images": 400, "peer_images": 200, "time_s": 90.0, "flops_left": None, "inference_flops": 3_000_000}
        | {column: values[variant] for column, values in costs.items() if variant in values}
        for variant, both in scores.items()
        for seed, score in enumerate(both)
    ]
    if "rmse" in space:
        rows = [of_task(row, val_rmse=row["val_accuracy"], test_rmse=row["test_accuracy"]) for row in rows]
        rows = [row | {"ensemble_test_rmse": None} for row in rows]
    return page(rows, rounds, space=parse_space(yaml.safe_load(text)).to_yaml())


def _schema(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> pa.Schema:
    text = {column for column in columns if any(isinstance(row.get(column), str) for row in rows)}
    return pa.schema(
        [(column, pa.string() if column in text | {"trial_id", "status"} else pa.float64()) for column in columns]
    )


def figures_of(html: str) -> dict[str, dict[str, Any]]:
    """Return the figures of a page by name, each with `description` and `plot`."""
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    figures: dict[str, dict[str, Any]] = json.loads(text)
    return figures


def many_trials(num: int, num_rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of trials whose accuracy depends on A alone, and rows of their rounds."""
    trials = [
        trial(
            f"{index:05}",
            A=(0.5 + index) / num,
            c=1.0 + 37 * index % 101,
            val_accuracy=1 - math.fabs((0.5 + index) / num - 0.3),
        )
        for index in range(num)
    ]
    return trials, [row for trial in trials for row in rounds_of(trial["trial_id"], num_rounds=num_rounds)]
