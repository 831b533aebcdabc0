"""Figures of the search: sampled values with the accuracies reached, and importance of the searched keys."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from graftpop.reporting.figure import Figure, color, with_layout
from graftpop.space import Domain
from graftpop.study.optuna_space import OptunaSpace

__all__ = ["FEWEST_TRIALS", "importance_figure", "importances", "parallel_coordinates"]

GREY_TO_ORANGE = ((0.0, "#8a939c"), (1.0, "#d55e00"))

FEWEST_TRIALS = 4
"""Smallest number of completed trials from which importances are computed."""


def parallel_coordinates(rows: Sequence[Mapping[str, Any]], domains: Mapping[str, Domain]) -> Figure:
    """Return one line per trial through its sampled values to its validation accuracy.

    Args:
        rows: rows of `trials.parquet` with a validation accuracy, at least one.
        domains: searched keys, at least one.
    """
    rows = sorted(rows, key=lambda row: float(row["val_accuracy"]))  # the best are drawn last, on top
    accuracies = [row["val_accuracy"] for row in rows]
    dimensions = [_dimension(key, domain, [row[key] for row in rows]) for key, domain in domains.items()]
    dimensions.append({"label": "val accuracy", "values": accuracies, "tickformat": ".1%"})
    plot = go.Figure(
        go.Parcoords(dimensions=dimensions, labelangle=-14, line={"color": accuracies, "colorscale": GREY_TO_ORANGE})
    )
    with_layout(plot, height=430).update_layout(margin={"l": 72, "r": 64, "t": 84, "b": 24})
    return Figure(
        plot,
        f"Values of {', '.join(domains)} in {len(rows)} trials, with the validation accuracies reached: "
        f"{min(accuracies):.2%} to {max(accuracies):.2%}.",
    )


def _dimension(key: str, domain: Domain, values: Sequence[Any]) -> dict[str, Any]:
    label = key.rpartition(".")[2]
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


def importances(rows: Sequence[Mapping[str, Any]], domains: Mapping[str, Domain]) -> dict[str, float]:
    """Return the importance of each searched key for the validation accuracy, as shares that sum to 1.

    Computed from completed trials by Optuna's PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255). Empty for
    fewer than `FEWEST_TRIALS` completed trials, or if all reached the same accuracy.

    Args:
        rows: rows of `trials.parquet`, restored.
        domains: searched keys.
    """
    import optuna

    completed = [row for row in rows if row["status"] == "completed" and row["val_accuracy"] is not None]
    if len(completed) < FEWEST_TRIALS or len({row["val_accuracy"] for row in completed}) < 2 or not domains:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    searched = OptunaSpace(domains)
    study.add_trials(
        [
            optuna.create_trial(
                params=searched.params({key: row[key] for key in domains}),
                distributions=searched.distributions,
                value=row["val_accuracy"],
            )
            for row in completed
        ]
    )
    return optuna.importance.get_param_importances(study)


def importance_figure(shares: Mapping[str, float]) -> Figure:
    """Return one bar per searched key, the most important on top, for a non-empty result of `importances`."""
    plot = go.Figure(
        go.Bar(
            x=list(shares.values()),
            y=list(shares),
            orientation="h",
            marker={"color": color(0)},
            hovertemplate="%{y}: %{x:.0%}<extra></extra>",
        )
    )
    with_layout(
        plot,
        height=110 + 34 * len(shares),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": {"text": "share of the importance"}, "tickformat": ".0%", "rangemode": "tozero"},
    )
    return Figure(
        plot,
        "Importance of the searched keys: " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items()) + ".",
    )
