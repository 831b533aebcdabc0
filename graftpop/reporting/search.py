"""Figures of the search: sampled values with the accuracies reached, importance of the keys, and trade-offs."""

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from graftpop.metrics import Metric, is_share, label_of
from graftpop.reporting.figure import Figure, color, share_axis, with_layout
from graftpop.reporting.optuna_figures import frozen_trials, study_of
from graftpop.space import Domain, Space
from graftpop.study.trials import objective_values, pareto_front

__all__ = ["FEWEST_TRIALS", "Importance", "importance_figure", "importances", "parallel_coordinates", "pareto_figure"]

GREY_TO_ORANGE = ((0.0, "#8a939c"), (1.0, "#d55e00"))

FEWEST_TRIALS = 20
"""Smallest number of completed trials from which importances are computed."""

NUM_RESAMPLES = 40
"""Resamples of the trials from which the intervals of the importances come."""


class Importance(NamedTuple):
    """Importance of a searched key.

    Attributes:
        share: share of all keys' importance, in [0, 1].
        low: the 10th percentile of the share over resamples of the trials.
        high: the 90th percentile.
    """

    share: float
    low: float
    high: float


def parallel_coordinates(rows: Sequence[Mapping[str, Any]], domains: Mapping[str, Domain], primary: Metric) -> Figure:
    """Return one line per trial through its sampled values to its validation score.

    Args:
        rows: rows of `trials.parquet` with a validation score, at least one.
        domains: searched keys, at least one.
        primary: the primary metric of the task.
    """
    rows = sorted(rows, key=primary.merit_of)  # the best are drawn last, on top
    scores = [row[primary.val] for row in rows]
    dimensions = [_dimension(key, domain, [row[key] for row in rows]) for key, domain in domains.items()]
    digits = {"tickformat": ".1%"} if primary.is_share else {}
    dimensions.append({"label": f"val {primary.label}", "values": scores, **digits})
    line = {"color": [primary.merit(score) for score in scores], "colorscale": GREY_TO_ORANGE}
    without_ends = {"color": "rgba(0, 0, 0, 0)"}  # their ticks say them
    plot = go.Figure(go.Parcoords(dimensions=dimensions, labelangle=-14, rangefont=without_ends, line=line))
    with_layout(plot, height=430).update_layout(margin={"l": 72, "r": 64, "t": 84, "b": 24})
    return Figure(
        plot,
        f"Values of {', '.join(domains)} in {len(rows)} trials, with the validation {primary.label} reached: "
        f"{primary.text(min(scores))} to {primary.text(max(scores))}.",
    )


def _dimension(key: str, domain: Domain, values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis; trials in which the key did not matter have a tick of their own, below all values."""
    label = key.rpartition(".")[2]
    if None in values and None not in domain.values:
        axis = _dimension(key, domain, [value for value in values if value is not None])
        low, high = axis["range"]
        below = low - (high - low) / 8
        placed = iter(axis["values"])
        ticks = axis.get("tickvals", [low, (low + high) / 2, high])
        return axis | {
            "values": [below if value is None else next(placed) for value in values],
            "range": [below, high],
            "tickvals": [below, *ticks],
            "ticktext": ["unused", *axis.get("ticktext", [f"{tick:.3g}" for tick in ticks])],
        }
    if domain.kind == "loguniform":
        low, high = (math.log10(bound) for bound in domain.values)
        ticks = sorted({low, high, *range(math.ceil(low), math.floor(high) + 1)})
        return {
            "label": label,
            "values": [math.log10(value) for value in values],
            "range": [low, high],
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.3g}" for tick in ticks],
        }
    if domain.kind in ("choice", "grid"):
        names = list(map(str, domain.values))
        return {
            "label": label,
            "values": [names.index(str(value)) for value in values],
            "range": [-0.2, len(names) - 0.8],
            "tickvals": list(range(len(names))),
            "ticktext": names,
        }
    return {"label": label, "values": list(values), "range": list(domain.values[:2])}


def importances(rows: Sequence[Mapping[str, Any]], space: Space) -> dict[str, Importance]:
    """Return the importance of each searched key for the validation score, the most important first.

    Computed from completed trials by Optuna's PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255). For a key that
    matters only in some trials, only those are used (arXiv 2601.20800). Empty for fewer than `FEWEST_TRIALS` completed
    trials, or if all reached the same score.

    Args:
        rows: rows of `trials.parquet`, restored.
        space: the study's space.
    """
    import numpy as np

    val = space.primary.val
    completed = [row for row in rows if row["status"] == "completed" and row[val] is not None]
    if len(completed) < FEWEST_TRIALS or len({row[val] for row in completed}) < 2 or not space.domains:
        return {}
    trials = frozen_trials(completed, space)
    shares = _shares(trials, space)
    rng = random.Random(0)
    resampled = [_shares(rng.choices(trials, k=len(trials)), space) for _ in range(NUM_RESAMPLES)]
    limits = {key: np.quantile([one[key] for one in resampled], (0.1, 0.9)) for key in shares}
    ordered = sorted(shares, key=lambda key: -shares[key])
    return {key: Importance(shares[key], *map(float, limits[key])) for key in ordered}


def _shares(trials: Sequence[Any], space: Space) -> dict[str, float]:
    """Return the importance of each key as shares that sum to 1; 0 for all if no key stands out."""
    import optuna

    study = study_of(trials, space.primary)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may have too few trials of a kind, or equal scores
        found = optuna.importance.get_param_importances(study, normalize=False)
    total = sum(found.values())
    return {key: found.get(key, 0.0) / total if total else 0.0 for key in space.domains}


def importance_figure(shares: Mapping[str, Importance]) -> Figure:
    """Return one bar per searched key with its interval, for a non-empty result of `importances`."""
    plot = go.Figure(
        go.Bar(
            x=[one.share for one in shares.values()],
            y=list(shares),
            orientation="h",
            marker={"color": color(0)},
            error_x={
                "array": [max(0.0, one.high - one.share) for one in shares.values()],
                "arrayminus": [max(0.0, one.share - one.low) for one in shares.values()],
                "color": "#8a939c",
            },
            hovertemplate="%{y}: %{x:.0%}<extra></extra>",
        )
    )
    with_layout(
        plot,
        height=110 + 34 * len(shares),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": {"text": "share of the importance"}, "range": [0, 1], **share_axis()},
    )
    return Figure(
        plot,
        "Importance of the searched keys: "
        + ", ".join(f"{key} {one.share:.0%} ({one.low:.0%} to {one.high:.0%})" for key, one in shares.items())
        + ".",
    )


def pareto_figure(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, str]) -> Figure:
    """Return one point per completed trial by its first two metrics, with those on the Pareto front in color.

    Args:
        rows: rows of `trials.parquet`, at least one of a completed trial.
        objectives: two or more metrics with their modes.
    """
    front = pareto_front(rows, objectives)
    values = {row["trial_id"]: objective_values(row, objectives) for row in rows if row["status"] == "completed"}
    second, first = list(objectives)[1::-1]
    plot = go.Figure()
    for name, trial_ids, tint in (
        ("dominated", [trial_id for trial_id in values if trial_id not in front], "#8a939c"),
        ("Pareto front", sorted(front, key=lambda trial_id: (values[trial_id] or [0, 0])[1]), color(1)),
    ):
        points = [point for trial_id in trial_ids if (point := values[trial_id]) is not None]
        plot.add_scatter(
            x=[point[1] for point in points],
            y=[point[0] for point in points],
            text=[f"trial {trial_id}" for trial_id in trial_ids],
            mode="lines+markers" if name == "Pareto front" and len(objectives) == 2 else "markers",
            line={"shape": "hv" if objectives[second] == "min" else "vh", "dash": "dot"},
            marker={"color": tint, "size": 9},
            cliponaxis=False,
            name=name,
            hovertemplate="%{text}: %{y}, %{x}<extra></extra>",
        )
    axes = [
        {"title": {"text": label_of(name)}, "zeroline": False, **share_axis(is_share(name))} for name in (second, first)
    ]
    with_layout(plot, height=380, xaxis=axes[0], yaxis=axes[1])
    return Figure(
        plot,
        f"{label_of(first)} and {label_of(second)} of {len(values)} completed trials, {len(front)} of them on the "
        f"Pareto front.",
    )
