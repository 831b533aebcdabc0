"""The sections of a run's report: best configuration, trials, curves, trade-offs, details, events."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from graftpop.comparison import Group, compare_trials, comparison_html
from graftpop.metrics import Metric
from graftpop.reporting.configuration import configuration_sentences
from graftpop.reporting.costs import score_by_cost
from graftpop.reporting.curves import Variant, mean_score_by_images, score_by_images
from graftpop.reporting.differences import paired_differences
from graftpop.reporting.run_tables import Tables
from graftpop.reporting.search import pareto_figure
from graftpop.reporting.search_section import search_section
from graftpop.reporting.tables import cells, heads, searched_text, shown_columns, text_of
from graftpop.reporting.template import Section, part
from graftpop.reporting.timeline import timeline
from graftpop.reporting.trial_details import details_of, rows_of, trials_in_detail
from graftpop.space import Space, parse_space
from graftpop.space.yaml_text import read_sections
from graftpop.study.trials import best_row, objective_values, pareto_front, restored_row

__all__ = ["run_sections"]

MOST_GROUPS = 7
"""Largest number of groups of trials with a color each."""

EVENTS_SHOWN = 200

ON_TIMELINE = {"started_at", "ended_at"}
"""Columns of `trials.parquet` that the timeline shows in place of the table."""

TRIAL_FIGURES = {
    "peers": "Validation score and training loss of each peer, by round.",
    "alpha/RECEIVER": "Alpha by site and round. Blue: the receiver took more of the donor's weights. Orange: it kept "
    "more of its own weights.",
    "entropies/RECEIVER": "Entropy of the weights of each site, for the receiver and its donor.",
    "invalid/RECEIVER": "Invalid filters of each site, before and after grafting.",
    "distances": "Distance between the weights of each pair of peers, and share of validation items on which their "
    "predictions differ.",
    "lineage": "Donors and receivers. A line runs from the donor, at the round of its snapshot, to the receiver in the "
    "round after the exchange.",
}


def run_sections(tables: Tables, space: str) -> tuple[str, list[Section], dict[str, str]]:
    """Return the name of a study, the sections of its page, and its figures as JSON by name."""
    parsed = parse_space(read_sections(space, "space.yaml"), "space.yaml")
    rows = [restored_row(row, parsed.domains) for row in tables.trials.to_pylist()]
    groups = compare_trials(rows, parsed) if parsed.variants else []
    figures: dict[str, str] = {}
    sections = [
        *_comparison(groups, parsed, figures),
        *_best(rows, parsed, tables),
        _trials(rows, parsed, tables, figures),
        _curves(rows, parsed, groups, tables.rounds, figures),
        *_trade_offs(rows, parsed, figures),
        *search_section(rows, parsed, figures),
        *_details(rows, parsed.primary, tables, figures),
        *_events(tables.events),
        Section("space", "Search space", Markup("<pre>{}</pre>").format(space)),
    ]
    return parsed.resolve().name, sections, figures


def _comparison(groups: Sequence[Group], space: Space, figures: dict[str, str]) -> Iterator[Section]:
    if not space.variants:
        return
    for index, group in enumerate(groups):
        if group.differences:
            figures[f"differences/{index}"] = paired_differences(group).to_json()
        for cost in group.known_costs:
            figures[f"costs/{index}/{cost}"] = score_by_cost(group, cost).to_json()
    yield Section("comparison", "Comparison of variants", Markup(comparison_html(groups, space.published)))


def _best(rows: Sequence[Mapping[str, Any]], space: Space, tables: Tables) -> Iterator[Section]:
    best, primary = best_row(rows, space.primary), space.primary
    if space.variants:  # the best trial of a comparison is one lucky seed
        return
    if best is None:
        yield Section("best", "Best configuration", part("paragraphs", ["No trial has finished a round yet."]))
        return
    sample = space.sample_of(best)
    scores = [
        (name, text_of(column, best[column]))
        for metric in space.metrics
        for column, name in (
            (metric.val, f"validation {metric.label}"),
            (metric.test, f"test {metric.label}"),
            (metric.ensemble, f"test {metric.label} of the ensemble of all peers"),
        )
        if best[column] is not None and (metric == primary or column == metric.test)
    ]
    sentences = configuration_sentences(space.resolve(sample), rows_of(tables.grafts, best["trial_id"]))
    equals = sum(row[primary.val] == best[primary.val] and row["status"] == best["status"] for row in rows) - 1
    if equals:
        sentences.append(f"{equals} other trial{'s' * (equals > 1)} reached the same validation {primary.label}.")
    yield Section(
        "best",
        "Best configuration",
        part(
            "best",
            best["trial_id"],
            scores,
            sentences,
            [(key, searched_text(key, value)) for key, value in sample.items()],
        ),
    )


def _trials(rows: Sequence[Mapping[str, Any]], space: Space, tables: Tables, figures: dict[str, str]) -> Section:
    best = None if space.variants else best_row(rows, space.primary)
    # of further metrics the test score is enough
    hidden = {column for metric in space.metrics[1:] for column in (metric.val, metric.ensemble)} | ON_TIMELINE
    shown = [column for column in tables.trials.column_names if column not in hidden]
    scores = [column for column in shown if column in (space.primary.val, space.primary.test)]  # first, for a phone
    columns = shown_columns(list(dict.fromkeys(["trial_id", *scores, *shown])), rows)
    _, *others = columns or ["trial_id"]
    body = part(
        "trials",
        heads(columns),
        [(row["trial_id"], cells(row, others)) for row in rows],
        best["trial_id"] if best else None,
    )
    if drawn := timeline(rows):
        figures["timeline"] = drawn.to_json()
        body += part("figure", "timeline", "When each trial ran, from its first start to its end.")
    return Section("trials", "Trials", body)


def _curves(
    rows: Sequence[Mapping[str, Any]], space: Space, groups: Sequence[Group], rounds: pa.Table, figures: dict[str, str]
) -> Section:
    title = f"{space.primary.title} by images trained"
    if not rounds.num_rows:
        return Section("curves", title, part("paragraphs", ["No round has finished yet."]))
    if variants := _completed_variants(rows, groups, set(pc.unique(rounds["trial_id"]).to_pylist())):
        figures["curves"] = mean_score_by_images(rounds, variants, space.primary).to_json()
        caption = (
            f"Mean validation {space.primary.label} over the completed trials of each variant, by the images that all "
            f"peers trained on, with a band of one standard deviation. Click a name to show or hide its curve."
        )
        return Section("curves", title, part("figure", "curves", caption))
    best = None if space.variants else best_row(rows, space.primary)
    figures["curves"] = score_by_images(
        rounds, _groups(rows, space), best["trial_id"] if best else None, space.primary
    ).to_json()
    return Section(
        "curves",
        title,
        part(
            "figure",
            "curves",
            f"Validation {space.primary.label} of the best peer of each population, by the images that all its peers "
            "trained on. Populations of different sizes thus compare at equal compute.",
        ),
    )


def _completed_variants(
    rows: Sequence[Mapping[str, Any]], groups: Sequence[Group], with_rounds: Set[str]
) -> list[Variant]:
    """Return the variants that have completed trials: those of each group, its baseline first, then by difference.

    Args:
        rows: rows of `trials.parquet`, restored.
        groups: groups from `compare_trials`.
        with_rounds: IDs of the trials whose rounds are known.
    """
    variants: list[Variant] = []
    for group in groups:
        for line in group.ranked:
            values = {"variant": line.variant, "status": "completed", **group.values}
            found = [row["trial_id"] for row in rows if all(row[key] == value for key, value in values.items())]
            trials = [trial for trial in found if trial in with_rounds]
            label = ", ".join([line.variant, *group.texts])
            index = len(variants) if group.values else group.lines.index(line)
            variants.append(Variant(label, trials, index, line.variant == group.baseline))
    return [variant for variant in variants if variant.trials]


def _groups(rows: Sequence[Mapping[str, Any]], space: Space) -> dict[str, str]:
    """Return the label that gives each trial its color: its variant, or its number of peers if variants are many."""
    if 1 < len(space.variants) <= MOST_GROUPS:
        return {row["trial_id"]: row["variant"] for row in rows}
    numbers = {row["trial_id"]: space.resolve(space.sample_of(row)).population.num_peers for row in rows}
    return {
        trial: f"{number} peer{'s' * (number > 1)}"
        for trial, number in sorted(numbers.items(), key=lambda item: item[1])
    }


def _trade_offs(rows: Sequence[Mapping[str, Any]], space: Space, figures: dict[str, str]) -> Iterator[Section]:
    objectives = space.resolve().objectives
    front = pareto_front(rows, objectives)
    if len(objectives) < 2 or not front:
        return
    figures["pareto"] = pareto_figure(rows, objectives).to_json()
    caption = "One point per completed trial. No other trial is better in one metric and as good in the rest than a "
    body = part("figure", "pareto", f"{caption}trial on the Pareto front.") + part(
        "table",
        "Pareto front",
        ["trial", *heads(list(objectives))],
        [
            (row["trial_id"], *(text_of(name, value) for name, value in zip(objectives, values, strict=True)))
            for row in sorted(rows, key=lambda row: -space.primary.merit_of(row) if row["trial_id"] in front else 0.0)
            if row["trial_id"] in front and (values := objective_values(row, objectives)) is not None
        ],
    )
    yield Section("trade-offs", "Trade-offs", body)


def _details(
    rows: Sequence[Mapping[str, Any]], primary: Metric, tables: Tables, figures: dict[str, str]
) -> Iterator[Section]:
    details = details_of(trials_in_detail(rows, primary), tables[1:], primary)
    if not details:
        return
    for of_trial in details.values():
        figures |= of_trial
    trials = list(details)
    parts = [part("trial_choice", trials, trials[0], len(rows) - len(trials))]
    parts += [part("figure", f"trial/TRIAL/{name}", caption) for name, caption in TRIAL_FIGURES.items()]
    if not any(name.endswith("/distances") for name in figures):
        parts.append(part("paragraphs", ["Set diagnostics.pairs: true to record distances between peers."]))
    yield Section("detail", "Trial details", Markup("\n").join(parts))


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
    caption = "Events of peers, checkpoints and storage"
    caption += f", the last {len(last)} of {events.num_rows}" * (len(last) < events.num_rows)
    yield Section(
        "events", "Events", part("table", caption, ["trial", "at (UTC)", "round", "peer", "event", "cause"], lines)
    )
