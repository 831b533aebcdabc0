"""The report of a run: one self-contained page built from the run folder's tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from markupsafe import Markup

from graftpop.comparison import Group, compare_trials, comparison_html, comparison_markdown
from graftpop.errors import CheckpointError
from graftpop.reporting.configuration import configuration_sentences
from graftpop.reporting.curves import accuracy_by_images
from graftpop.reporting.differences import paired_differences
from graftpop.reporting.search import FEWEST_TRIALS, importance_drawing, importances, parallel_coordinates
from graftpop.reporting.tables import cells, heads, shown_columns, text_of
from graftpop.reporting.template import Section, page_html, part
from graftpop.reporting.trial_details import details_of, rows_of, trials_in_detail
from graftpop.run.tables import RunFolder
from graftpop.space import Space, parse_space
from graftpop.space.yaml_tree import read_sections
from graftpop.study.trials import best_row, restored_row

__all__ = ["ROUND_COLUMNS", "Tables", "read_report_html", "report_html", "report_markdown", "write_report"]

MOST_GROUPS = 7
"""Most groups of trials with their own color."""

EVENTS_SHOWN = 200

ROUND_COLUMNS = ("trial_id", "round", "peer", "train_loss", "val_accuracy", "train_images")
"""Columns read from `rounds.parquet`, which has hundreds of thousands of rows in large studies."""

TRIAL_DRAWINGS = {
    "peers": "Validation accuracy and training loss of its peers by round.",
    "alpha/RECEIVER": "Alpha by site and round: blue where the receiver took more from the donor, orange where it kept "
    "more of its own weights.",
    "entropies/RECEIVER": "Entropy of the weights of receiver and donor by site and round.",
    "invalid/RECEIVER": "Invalid filters by site and round, before and after grafting.",
    "distances": "Distance of the weights of each pair of peers, and share of validation images on which "
    "they disagree.",
    "lineage": "Exchanges: a line leads from the donor, at the round of its snapshot, to the receiver.",
}


class Tables(NamedTuple):
    """A run's tables; grafts and diagnostics may be limited to `trials_in_detail`."""

    trials: pa.Table
    rounds: pa.Table
    grafts: pa.Table
    diagnostics: pa.Table
    events: pa.Table


def write_report(folder: RunFolder) -> None:
    """Write `report.html` from the run folder's current tables."""
    folder.write_text("report.html", read_report_html(folder))


def read_report_html(folder: RunFolder) -> str:
    """Return the report page from the run folder's current tables."""
    trials = folder.read_table("trials")
    wanted = trials_in_detail(trials.to_pylist())
    tables = Tables(
        trials,
        folder.read_table("rounds", columns=ROUND_COLUMNS),
        folder.read_table("grafts", of=wanted),
        folder.read_table("diagnostics", of=wanted),
        folder.read_table("events"),
    )
    return report_html(tables, space=folder.read_text("space.yaml"), facts=json.loads(folder.read_text("run.json")))


def report_markdown(folder: RunFolder) -> str:
    """Return the tables of a comparison study in Markdown.

    Raises:
        CheckpointError: the run is not a comparison.
    """
    where = f"{folder.location}/space.yaml"
    space = parse_space(read_sections(folder.read_text("space.yaml"), where), where)
    if not space.variants:
        raise CheckpointError(
            f"{where}: --markdown needs the run of a space with variants, got one without; omit the "
            f"option to write the report"
        )
    return comparison_markdown(compare_trials(folder.read_table("trials").to_pylist(), space), space.published)


def report_html(tables: Tables, *, space: str, facts: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        tables: of the run.
        space: the resolved search space.
        facts: the content of `run.json`.
    """
    parsed = parse_space(read_sections(space, "space.yaml"), "space.yaml")
    rows = [restored_row(row, parsed.domains) for row in tables.trials.to_pylist()]
    drawings: dict[str, str] = {}  # as JSON, by name
    sections = [
        *_comparison(rows, parsed, drawings),
        _best(rows, parsed, tables),
        _trials(rows, tables),
        _curves(rows, parsed, tables.rounds, drawings),
        *_search(rows, parsed, drawings),
        *_details(rows, tables, drawings),
        *_events(tables.events),
        Section("space", "Search space", Markup("<pre>{}</pre>").format(space)),
    ]
    return page_html(parsed.resolve().name, _about(facts), sections, drawings)


def _about(facts: Mapping[str, Any]) -> list[str]:
    hardware = facts["hardware"]
    machine = ", ".join([f"{hardware['cores']} cores of {hardware['processor']}", *hardware["gpus"]])
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items() if version)
    commit = (facts.get("git") or {}).get("commit", "")
    return [
        line
        for line in (
            f"{facts['started']}, {facts.get('status', 'running')}; {machine}",
            " ".join(facts["command"]),
            f"{versions}{f'; commit {commit[:12]}' if commit else ''}",
        )
        if line
    ]


def _comparison(rows: Sequence[Mapping[str, Any]], space: Space, drawings: dict[str, str]) -> Iterator[Section]:
    if not space.variants:
        return
    groups: list[Group] = compare_trials(rows, space)
    for index, group in enumerate(groups):
        if group.differences:
            drawings[f"differences/{index}"] = paired_differences(group).to_json()
    yield Section("comparison", "Comparison of variants", Markup(comparison_html(groups, space.published)))


def _best(rows: Sequence[Mapping[str, Any]], space: Space, tables: Tables) -> Section:
    best = best_row(rows)
    if best is None:
        return Section("best", "Best configuration", part("paragraphs", ["No trial has finished a round yet."]))
    sample = {key: best[key] for key in space.domains}
    figures = [
        (name, text_of(column, best[column]))
        for column, name in (
            ("val_accuracy", "validation accuracy"),
            ("test_accuracy", "test accuracy"),
            ("ensemble_test_accuracy", "test accuracy of the ensemble of all peers"),
        )
        if best[column] is not None
    ]
    sentences = configuration_sentences(space.resolve(sample), rows_of(tables.grafts, best["trial_id"]))
    equals = sum(row["val_accuracy"] == best["val_accuracy"] and row["status"] == best["status"] for row in rows) - 1
    if equals:
        sentences.append(f"{equals} other trial{'s' * (equals > 1)} reached the same validation accuracy.")
    return Section(
        "best",
        "Best configuration",
        part(
            "best", best["trial_id"], figures, sentences, [(key, text_of(key, value)) for key, value in sample.items()]
        ),
    )


def _trials(rows: Sequence[Mapping[str, Any]], tables: Tables) -> Section:
    best = best_row(rows)
    columns = shown_columns(tables.trials.column_names, rows)
    _, *others = columns or ["trial_id"]
    return Section(
        "trials",
        "Trials",
        part(
            "trials",
            heads(columns),
            [(row["trial_id"], cells(row, others)) for row in rows],
            best["trial_id"] if best else None,
        ),
    )


def _curves(rows: Sequence[Mapping[str, Any]], space: Space, rounds: pa.Table, drawings: dict[str, str]) -> Section:
    title = "Accuracy by images trained"
    if not rounds.num_rows:
        return Section("curves", title, part("paragraphs", ["No round is done yet."]))
    best = best_row(rows)
    drawings["curves"] = accuracy_by_images(rounds, _groups(rows, space), best["trial_id"] if best else None).to_json()
    return Section(
        "curves",
        title,
        part(
            "drawing",
            "curves",
            "Best peer of each population on the validation split, by the images of all its peers together: so "
            "populations of different sizes compare at equal compute.",
        ),
    )


def _groups(rows: Sequence[Mapping[str, Any]], space: Space) -> dict[str, str]:
    """Return the color group of each trial: its variant, or with too many variants its number of peers."""
    if 1 < len(space.variants) <= MOST_GROUPS:
        return {row["trial_id"]: row["variant"] for row in rows}
    numbers = {
        row["trial_id"]: space.resolve({key: row[key] for key in space.domains}).population.num_peers for row in rows
    }
    return {
        trial: f"{number} peer{'s' * (number > 1)}"
        for trial, number in sorted(numbers.items(), key=lambda item: item[1])
    }


def _search(rows: Sequence[Mapping[str, Any]], space: Space, drawings: dict[str, str]) -> Iterator[Section]:
    measured = [row for row in rows if row["val_accuracy"] is not None]
    if not space.domains or len(measured) < 2:
        return
    drawings["parallel"] = parallel_coordinates(measured, space.domains).to_json()
    body = part(
        "drawing",
        "parallel",
        "One line per trial, through its searched values to its accuracy. Drag along an axis "
        "to select trials; drag a heading to move its axis.",
        f"{8 + 6 * len(space.domains)}rem",
    )
    if not space.variants:  # variants have their own table
        body += _importances(rows, space, drawings)
    yield Section("search", "What was searched", body)


def _importances(rows: Sequence[Mapping[str, Any]], space: Space, drawings: dict[str, str]) -> Markup:
    shares = importances(rows, space.domains)
    if not shares:
        return part("paragraphs", [f"Importances need {FEWEST_TRIALS} completed trials of different accuracies."])
    drawings["importances"] = importance_drawing(shares).to_json()
    num = sum(row["status"] == "completed" for row in rows)
    caption = (
        f"Importance of each key for the validation accuracy, estimated by PED-ANOVA from {num} "
        f"completed trials; from few trials it is only a hint."
    )
    return part("drawing", "importances", caption) + part(
        "table",
        "Importance of the searched values",
        ["key", "share"],
        [(key, f"{share:.1%}") for key, share in shares.items()],
    )


def _details(rows: Sequence[Mapping[str, Any]], tables: Tables, drawings: dict[str, str]) -> Iterator[Section]:
    details = details_of(trials_in_detail(rows), tables[1:])
    if not details:
        return
    for of_trial in details.values():
        drawings |= of_trial
    trials = list(details)
    parts = [part("trial_choice", trials, trials[0], len(rows) - len(trials))]
    parts += [part("drawing", f"trial/TRIAL/{name}", caption) for name, caption in TRIAL_DRAWINGS.items()]
    if not any(name.endswith("/distances") for name in drawings):
        parts.append(part("paragraphs", ["Distances between peers are recorded with diagnostics.pairs: true."]))
    yield Section("detail", "A trial in detail", Markup("\n").join(parts))


def _events(events: pa.Table) -> Iterator[Section]:
    if not events.num_rows:
        return
    last = events.slice(max(0, events.num_rows - EVENTS_SHOWN)).to_pylist()
    lines = [
        (
            row["trial_id"],
            f"{row['at']:%Y-%m-%d %H:%M:%S}",
            row["round"],
            "" if row["peer"] is None else row["peer"],
            row["event"].replace("_", " "),
            row["cause"],
        )
        for row in last
    ]
    caption = "Events" + (f", the last {len(last)} of {events.num_rows}" * (len(last) < events.num_rows))
    yield Section(
        "events", "Events", part("table", caption, ["trial", "at (UTC)", "round", "peer", "event", "cause"], lines)
    )
