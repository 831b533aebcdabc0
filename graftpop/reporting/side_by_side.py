"""Several runs in one page: best trials, curves, and differences of their settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import yaml

from graftpop.reporting.curves import accuracy_by_images
from graftpop.reporting.figure import Drawing, color, with_layout
from graftpop.reporting.run_page import ROUND_COLUMNS
from graftpop.reporting.tables import text_of
from graftpop.reporting.template import Section, page_html, part
from graftpop.run.tables import RunFolder
from graftpop.space import Space, parse_space
from graftpop.space.domains import is_domain
from graftpop.space.yaml_tree import read_sections
from graftpop.study.trials import best_row, duration, restored_row

__all__ = ["several_runs_html"]

DECIDES = ("seed", "data.", "tune.metric")
"""Keys, or their prefixes, that must be equal for comparable accuracies."""


@dataclass(frozen=True)
class Run:
    """The current state of a run.

    Attributes:
        label: unique name in this page.
        location: of its folder.
        space: its search space.
        facts: content of its `run.json`.
        rows: of its trials.
        curve: rounds of its best trial, under the run's label.
    """

    label: str
    location: str
    space: Space
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    curve: pa.Table

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The row of the best trial."""
        return best_row(self.rows)


def several_runs_html(folders: Sequence[RunFolder]) -> str:
    """Return the page of several runs.

    Args:
        folders: run folders, at least two.

    Raises:
        CheckpointError: a run folder is damaged.
    """
    labels = _labels([folder.location for folder in folders])
    runs = [_read(folder, label) for folder, label in zip(folders, labels, strict=True)]
    drawings: dict[str, str] = {}
    return page_html(" and ".join(labels), [], [_runs(runs), *_curves(runs, drawings), _settings(runs)], drawings)


def _labels(locations: Sequence[str]) -> list[str]:
    """Return the shortest distinct tails of locations."""
    parts = [PurePosixPath(location).parts for location in locations]
    for num in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(of_run[-num:]) for of_run in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}: {location}" for index, location in enumerate(locations, start=1)]


def _read(folder: RunFolder, label: str) -> Run:
    where = f"{folder.location}/space.yaml"
    space = parse_space(read_sections(folder.read_text("space.yaml"), where), where)
    rows = [restored_row(row, space.domains) for row in folder.read_table("trials").to_pylist()]
    best = best_row(rows)
    rounds = folder.read_table("rounds", of=[best["trial_id"]] if best else [], columns=ROUND_COLUMNS)
    curve = rounds.set_column(0, "trial_id", pa.array([label] * rounds.num_rows, pa.string()))
    return Run(label, folder.location, space, json.loads(folder.read_text("run.json")), rows, curve)


def _runs(runs: Sequence[Run]) -> Section:
    heads = [
        "run",
        "study",
        "status",
        "trials",
        "images trained",
        "time of trials",
        "validation accuracy",
        "test accuracy",
        "ensemble test accuracy",
        "best configuration",
        "hardware",
    ]
    return Section(
        "runs",
        "Runs",
        part(
            "table", "The best trial of each run, chosen on its validation split", heads, [_line(run) for run in runs]
        ),
    )


def _line(run: Run) -> list[str]:
    best = run.best or {}
    over = sum(row["status"] in ("completed", "stopped") for row in run.rows)
    values = ", ".join(f"{key} = {text_of(key, best[key])}" for key in run.space.domains if best)
    hardware = run.facts["hardware"]
    return [
        run.label,
        run.space.resolve().name,
        run.facts.get("status", "running"),
        f"{over} of {len(run.rows)}",
        f"{sum(row['train_images'] or 0 for row in run.rows):,}",
        duration(sum(row["wall_s"] or 0.0 for row in run.rows)),
        *(text_of(column, best.get(column)) for column in ("val_accuracy", "test_accuracy", "ensemble_test_accuracy")),
        values,
        ", ".join([f"{hardware['cores']} cores of {hardware['processor']}", *hardware["gpus"]]),
    ]


def _curves(runs: Sequence[Run], drawings: dict[str, str]) -> Iterator[Section]:
    measured = [run for run in runs if run.curve.num_rows]
    if not measured:
        return
    rounds = pa.concat_tables(run.curve for run in measured)
    drawings["curves"] = accuracy_by_images(rounds, {run.label: run.label for run in measured}, None).to_json()
    drawings["trials"] = _all_trials(measured).to_json()
    body = part("drawing", "curves", "Best trial of each run by images trained by all its peers.")
    yield Section(
        "curves", "Accuracy", body + part("drawing", "trials", "Validation accuracies of all trials of each run.")
    )


def _all_trials(runs: Sequence[Run]) -> Drawing:
    figure = go.Figure()
    for index, run in enumerate(runs):
        rows = [row for row in run.rows if row["val_accuracy"] is not None]
        figure.add_box(
            y=[row["val_accuracy"] for row in rows],
            name=run.label,
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            marker={"color": color(index)},
            text=[row["trial_id"] for row in rows],
            hovertemplate="trial %{text}: %{y:.2%}<extra></extra>",
        )
    with_layout(
        figure, height=380, showlegend=False, yaxis={"title": {"text": "validation accuracy"}, "tickformat": ".1%"}
    )
    return Drawing(figure, f"Validation accuracies of all trials of {len(runs)} runs.")


def _settings(runs: Sequence[Run]) -> Section:
    """Return the differences of the spaces, with a warning if accuracies are not comparable."""
    flat = [dict(_flat(read_sections(run.space.to_yaml(), run.label))) for run in runs]
    keys = [
        key for key in dict.fromkeys(key for one in flat for key in one) if len({str(one.get(key)) for one in flat}) > 1
    ]
    if not keys:
        return Section("settings", "Settings", part("paragraphs", ["The spaces of these runs are the same."]))
    body = part(
        "table",
        "Keys in which the runs differ",
        ["key", *(run.label for run in runs)],
        [[key, *("" if one.get(key) is None else str(one[key]) for one in flat)] for key in keys],
    )
    if confounding := [key for key in keys if key.startswith(DECIDES)]:
        body = (
            part(
                "paragraphs",
                [
                    f"Before comparing: the runs differ in {', '.join(confounding)}, so their accuracies are not "
                    f"comparable."
                ],
            )
            + body
        )
    return Section("settings", "Settings", body)


def _flat(tree: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their values; domains as YAML."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and not start and not is_domain(value):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, Mapping):
            yield f"{start}{key}", yaml.safe_dump(dict(value), default_flow_style=True).strip()
        else:
            yield f"{start}{key}", value
