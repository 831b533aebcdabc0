"""A report of several runs side by side: the best trials of searches, all trials, and differing settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import yaml
from markupsafe import Markup

from graftpop.errors import CheckpointError
from graftpop.metrics import Metric
from graftpop.reporting.curves import score_by_images
from graftpop.reporting.figure import Figure, color, score_axis, with_layout
from graftpop.reporting.run_tables import round_columns
from graftpop.reporting.tables import searched_text, text_of
from graftpop.reporting.template import Section, page_html, part
from graftpop.run.provenance import hardware_text, read_provenance
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space, parse_space
from graftpop.space.domains import is_domain
from graftpop.space.yaml_text import read_sections
from graftpop.study.trials import best_row, duration, restored_row

__all__ = ["several_runs_html"]

CHANGES_SCORES = ("seed", "data.", "task.", "tune.metric")
"""Keys and prefixes of keys that must be equal, or scores are measured differently."""


@dataclass(frozen=True)
class Run:
    """A run, as read from its folder.

    Attributes:
        label: unique name of the run in this page.
        location: folder of the run.
        space: search space of the run.
        provenance: content of `run.json`; may be empty.
        rows: restored rows of `trials.parquet`.
        best: row of the best trial; None before the first round, and in a comparison, where it is one lucky seed.
        rounds: rounds of the best trial, with the label in place of the trial ID.
    """

    label: str
    location: str
    space: Space
    provenance: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any] | None
    rounds: pa.Table

    @property
    def groups(self) -> dict[str, list[Mapping[str, Any]]]:
        """Rows of the trials with a validation score, by label; a comparison has one label per variant and group."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.rows:
            if row[self.space.primary.val] is not None:
                label = f"{self.label}: {row['variant']}" if self.space.variants else self.label
                sample = self.space.sample_of(row) if self.space.variants else {}
                others = (one for one in sample.items() if one[0] not in ("variant", "seed"))
                label = ", ".join([label, *(f"{key} = {searched_text(key, value)}" for key, value in others)])
                found.setdefault(label, []).append(row)
        return found


def several_runs_html(folders: Sequence[RunFolder]) -> str:
    """Return the HTML page for several runs.

    Args:
        folders: folders of the runs, at least two.

    Raises:
        CheckpointError: a file of a run is damaged, or the runs have different metrics.
    """
    labels = _labels([folder.shown for folder in folders])
    runs = [_read(folder, label) for folder, label in zip(folders, labels, strict=True)]
    primary = runs[0].space.primary
    if other := next((run for run in runs if run.space.primary != primary), None):
        raise CheckpointError(
            f"report: runs must have one metric to be compared, got {primary.val} in {runs[0].location} and "
            f"{other.space.primary.val} in {other.location}; write a page for each"
        )
    figures: dict[str, str] = {}
    return page_html(
        " and ".join(labels), [], [_runs(runs, primary), *_curves(runs, figures, primary), _settings(runs)], figures
    )


def _labels(locations: Sequence[str]) -> list[str]:
    """Return the shortest unique endings of some paths, such as `a/run` and `b/run`."""
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
    best = None if space.variants else best_row(rows, space.primary)
    rounds = folder.read_table(
        "rounds", trial_ids=[best["trial_id"]] if best else [], columns=round_columns(space.primary)
    )
    labelled = rounds.set_column(0, "trial_id", pa.array([label] * rounds.num_rows, pa.string()))
    return Run(label, folder.shown, space, read_provenance(folder), rows, best, labelled)


def _runs(runs: Sequence[Run], primary: Metric) -> Section:
    heads = [
        "run",
        f"validation {primary.label}",
        f"test {primary.label}",
        f"ensemble test {primary.label}",
        "study",
        "status",
        "trials",
        "images trained",
        "time of trials",
        "its images",
        "its epochs per peer",
        "its time, one device per peer",
        "its inference FLOPs",
        "best configuration",
        "hardware",
    ]
    return Section(
        "runs",
        "Runs",
        part(
            "table",
            "The best trial of each search, selected on its validation split",
            heads,
            [_line(run, primary) for run in runs],
        ),
    )


def _line(run: Run, primary: Metric) -> list[str]:
    best = run.best or {}
    num_ended = sum(row["status"] in ("completed", "stopped") for row in run.rows)
    sample = run.space.sample_of(best) if best else {}
    values = ", ".join(f"{key} = {searched_text(key, value)}" for key, value in sample.items())
    if run.space.variants:
        values = f"comparison of {len(run.space.variants)} variants, see its report"
    return [
        run.label,
        *(text_of(column, best.get(column)) for column in (primary.val, primary.test, primary.ensemble)),
        run.space.resolve().name,
        run.provenance.get("status", "running"),
        f"{num_ended} of {len(run.rows)}",
        f"{sum(row['train_images'] or 0 for row in run.rows):,}",
        duration(sum(row["wall_s"] or 0.0 for row in run.rows)),
        *(text_of(column, best.get(column)) for column in ("train_images", "epochs", "time_s", "inference_flops")),
        values,
        hardware_text(run.provenance),
    ]


def _curves(runs: Sequence[Run], figures: dict[str, str], primary: Metric) -> Iterator[Section]:
    body = Markup()
    if searches := [run for run in runs if run.rounds.num_rows]:
        rounds = pa.concat_tables(run.rounds for run in searches)
        labels = {run.label: run.label for run in searches}
        figures["curves"] = score_by_images(rounds, labels, None, primary).to_json()
        body += part("figure", "curves", "The best trial of each search, by the images that all its peers trained on.")
    if groups := {label: rows for run in runs for label, rows in run.groups.items()}:
        figures["trials"] = _all_trials(groups, len(runs), primary).to_json()
        body += part("figure", "trials", f"Validation {primary.label} of every trial of each run, or of each variant.")
    if body:
        yield Section("curves", primary.title, body)


def _all_trials(groups: Mapping[str, Sequence[Mapping[str, Any]]], num_runs: int, primary: Metric) -> Figure:
    plot, shown = go.Figure(), ":.2%" if primary.is_share else ":.4g"
    for index, (label, rows) in enumerate(groups.items()):
        plot.add_box(
            y=[row[primary.val] for row in rows],
            name=label,
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            marker={"color": color(index)},
            text=[row["trial_id"] for row in rows],
            hovertemplate=f"trial %{{text}}: %{{y{shown}}}<extra></extra>",
        )
    with_layout(plot, height=380, showlegend=False, yaxis=score_axis(primary))
    return Figure(plot, f"Validation {primary.label} of all trials of {num_runs} runs.")


def _settings(runs: Sequence[Run]) -> Section:
    """Return the keys in which the spaces differ, with a warning if these change how scores are measured."""
    flat = [dict(_flat(read_sections(run.space.to_yaml(), run.label))) for run in runs]
    all_keys = dict.fromkeys(key for values in flat for key in values)
    keys = [key for key in all_keys if len({str(values.get(key)) for values in flat}) > 1]
    if not keys:
        return Section("settings", "Settings", part("paragraphs", ["All runs have the same search space."]))
    body = part(
        "table",
        "Keys in which the runs differ",
        ["key", *(run.label for run in runs)],
        [[key, *("" if values.get(key) is None else str(values[key]) for values in flat)] for key in keys],
    )
    if differing := [key for key in keys if key.startswith(CHANGES_SCORES)]:
        warning = f"Before comparing: the runs differ in {', '.join(differing)}, so their scores are not comparable."
        body = part("paragraphs", [warning]) + body
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
