"""The section of the searched keys: scores by trial and by value, importances, and pairs of keys."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from graftpop.reporting.optuna_figures import (
    frozen_trials,
    history,
    interpolated_pair,
    ranked_pair,
    slices,
    study_of,
    varied_keys,
)
from graftpop.reporting.search import FEWEST_TRIALS, importance_figure, importances, parallel_coordinates
from graftpop.reporting.tables import searched_text
from graftpop.reporting.template import Section, part
from graftpop.space import Domain, Space

__all__ = ["search_section"]


def search_section(rows: Sequence[Mapping[str, Any]], space: Space, figures: dict[str, str]) -> Iterator[Section]:
    """Yield the section of the searched keys; nothing without keys, or before two trials have scores.

    Args:
        rows: rows of `trials.parquet`, restored.
        space: the study's space.
        figures: gets the figures of the section as JSON, by name.
    """
    measured = [row for row in rows if row[space.primary.val] is not None]
    keys = {key: domain for key, domain in space.domains.items() if key != "seed"}  # seeds have no order
    if keys.keys() <= {"variant"} or len(measured) < 2:
        return
    varied = {key: domain for key, domain in keys.items() if len({repr(row[key]) for row in measured}) > 1}
    body = Markup()
    if varied:
        figures["parallel"] = parallel_coordinates(measured, varied, space.primary).to_json()
        body += part(
            "figure",
            "parallel",
            "One line per trial, through its sampled values to its validation score. Drag along an axis to select "
            "trials; drag a heading to move its axis.",
            f"{8 + 6 * len(varied)}rem",
        )
    constants = [_constant(key, measured[0][key], domain) for key, domain in keys.items() if key not in varied]
    body += part("paragraphs", [" ".join(constants)] if constants else [])
    if not space.variants:  # a comparison has its own table
        body = _history(rows, space, figures) + body + _importances(rows, space, figures)
    yield Section("search", "Searched keys", body)


def _constant(key: str, value: Any, domain: Domain) -> str:
    """Return a sentence on a key that has one value in all trials: the value, or that the key never mattered."""
    if value is None and None not in domain.values:
        return f"{key} mattered in no trial."
    return f"{key} was {searched_text(key, value)} in every trial."


def _history(rows: Sequence[Mapping[str, Any]], space: Space, figures: dict[str, str]) -> Markup:
    """Return the figures of the completed trials by number and by each searched key."""
    study = study_of(frozen_trials(rows, space), space.primary)
    scores = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    if len(scores) < 2:
        return Markup()
    figures["history"] = history(study, space.primary).to_json()
    body = part("figure", "history", "Validation score of each completed trial, in their order, and the best so far.")
    keys = varied_keys(study)
    if keys and len(set(scores)) > 1:
        figures["slices"] = slices(study, keys, space).to_json()
        body += part(
            "figure",
            "slices",
            "Validation score of the completed trials by each key that varied.",
            f"{6 + 11 * len(keys)}rem",
        )
    return body


def _importances(rows: Sequence[Mapping[str, Any]], space: Space, figures: dict[str, str]) -> Markup:
    shares = importances(rows, space)
    if not shares:
        text = f"Importances need {FEWEST_TRIALS} completed trials whose scores are not all equal."
        return part("paragraphs", [text])
    figures["importances"] = importance_figure(shares).to_json()
    num = sum(row["status"] == "completed" for row in rows)
    caption = (
        f"Importance of each searched key for the validation score, estimated by PED-ANOVA from {num} completed "
        f"trials, each key from the trials in which it matters. Ranges: 10th to 90th percentile over resamples of the "
        f"trials."
    )
    return (
        part("figure", "importances", caption)
        + part(
            "table",
            "Importance of the searched keys",
            ["key", "share", "range"],
            [(key, f"{one.share:.1%}", f"{one.low:.1%} to {one.high:.1%}") for key, one in shares.items()],
        )
        + _pair(rows, space, list(shares), figures)
    )


def _pair(rows: Sequence[Mapping[str, Any]], space: Space, keys: Sequence[str], figures: dict[str, str]) -> Markup:
    """Return two figures over the first two of some keys that varied together, the most important first."""
    study = study_of(frozen_trials(rows, space), space.primary)
    params = [trial.params for trial in study.get_trials(deepcopy=False)]
    for pair in combinations(keys, 2):
        values = [[one[key] for key in pair] for one in params if one.keys() >= set(pair)]
        if all(len(set(column)) > 1 for column in zip(*values, strict=True)) and values:
            break
    else:
        return Markup()
    figures["ranks"] = ranked_pair(study, pair, space).to_json()
    figures["landscape"] = interpolated_pair(study, pair, space).to_json()
    names = " and ".join(pair)
    return part(
        "panels",
        [
            ("ranks", f"The completed trials by {names}, colored by the rank of their validation score."),
            ("landscape", f"Validation score over {names}, interpolated between the trials (white)."),
        ],
    )
