"""Figures of the search: the trials' values and accuracies, and the importance of each key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from graftpop.reporting.figure import Drawing, color, with_layout
from graftpop.space import Domain
from graftpop.study.optuna_space import OptunaSpace

__all__ = ["FEWEST_TRIALS", "importance_drawing", "importances", "parallel_coordinates"]

GREY_TO_ORANGE = ((0.0, "#8a939c"), (1.0, "#d55e00"))

FEWEST_TRIALS = 4
"""Importances need this many completed trials."""


def parallel_coordinates(rows: Sequence[Mapping[str, Any]], domains: Mapping[str, Domain]) -> Drawing:
    """Return one line per trial through its searched values and its accuracy.

    Args:
        rows: of `trials.parquet` with a validation accuracy, at least one.
        domains: searched keys, at least one.
    """
    rows = sorted(rows, key=lambda row: float(row["val_accuracy"]))  # the best on top
    accuracies = [row["val_accuracy"] for row in rows]
    dimensions = [_dimension(key, domain, [row[key] for row in rows]) for key, domain in domains.items()]
    dimensions.append({"label": "val accuracy", "values": accuracies, "tickformat": ".1%"})
    figure = go.Figure(
        go.Parcoords(dimensions=dimensions, labelangle=-14, line={"color": accuracies, "colorscale": GREY_TO_ORANGE})
    )
    with_layout(figure, height=430).update_layout(margin={"l": 72, "r": 64, "t": 84, "b": 24})
    return Drawing(
        figure,
        f"The searched values of {len(rows)} trials, {', '.join(domains)}, and their validation "
        f"accuracies, {min(accuracies):.2%} to {max(accuracies):.2%}.",
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
    """Return the importance of each searched key for the validation accuracy; they sum to 1.

    Uses Optuna's PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255) over completed trials. Empty if these are
    too few or have equal accuracies.

    Args:
        rows: of `trials.parquet`, restored.
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


def importance_drawing(shares: Mapping[str, float]) -> Drawing:
    """Return one bar per key, the most important on top, of a nonempty result of `importances`."""
    figure = go.Figure(
        go.Bar(
            x=list(shares.values()),
            y=list(shares),
            orientation="h",
            marker={"color": color(0)},
            hovertemplate="%{y}: %{x:.0%}<extra></extra>",
        )
    )
    with_layout(
        figure,
        height=110 + 34 * len(shares),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": {"text": "share of the importance"}, "tickformat": ".0%", "rangemode": "tozero"},
    )
    return Drawing(
        figure,
        "Importance of the searched values: " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items()) + ".",
    )
