"""Figures of a search by `optuna.visualization`, with the page's colors and with axes within the searched ranges."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from graftpop.metrics import Metric
from graftpop.reporting.figure import INK, Figure, color, color_bar, score_axis, share_axis, with_layout
from graftpop.space import Domain, Space
from graftpop.study.optuna_space import OptunaSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["frozen_trials", "history", "interpolated_pair", "ranked_pair", "slices", "study_of", "varied_keys"]

EARLY_TO_LATE: Final = ((0.0, "#8a939c"), (1.0, "#d55e00"))

FEW_TRIALS: Final = 12
"""Numbers of trials below this get a tick each; plotly chooses whole numbers itself from here on."""

MOST_INTERPOLATED: Final = 150
"""Largest number of trials of a contour: its grid has as many rows and columns."""

LEGEND_OF_RANKS: Final = ("lowest", "25 %", "median", "75 %", "highest")


def frozen_trials(rows: Sequence[Mapping[str, Any]], space: Space) -> list["FrozenTrial"]:
    """Return each row as a trial of Optuna: completed with its validation score, or failed.

    Args:
        rows: rows of `trials.parquet`, restored.
        space: the study's space.
    """
    import optuna

    searched, val = OptunaSpace(space.domains), space.primary.val
    trials = []
    for row in rows:
        if row["status"] != "completed" or row[val] is None:
            trials.append(optuna.create_trial(state=optuna.trial.TrialState.FAIL))
            continue
        sample = space.sample_of(row)
        distributions = {key: searched.distributions[key] for key in sample}
        trials.append(optuna.create_trial(params=searched.params(sample), distributions=distributions, value=row[val]))
    return trials


def study_of(trials: Sequence["FrozenTrial"], primary: Metric) -> "Study":
    """Return a study in memory with these trials and the primary metric as its objective."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if primary.mode == "max" else "minimize")
    study.add_trials(trials)
    return study


def varied_keys(study: "Study") -> list[str]:
    """Return the keys that have two values or more in the completed trials."""
    values: dict[str, set[Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        for key, value in trial.params.items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def history(study: "Study", primary: Metric) -> Figure:
    """Return the validation score of each completed trial, and the best one so far, by trial.

    Args:
        study: study with at least two completed trials.
        primary: the primary metric of the task.
    """
    from optuna.visualization import plot_optimization_history

    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    scores = [primary.merit(trial.value) for trial in trials if trial.value is not None]
    best = trials[max(range(len(trials)), key=scores.__getitem__)]
    if len(set(scores)) == 1:
        text = f"All {len(trials)} completed trials reached a validation {primary.label} of {primary.text(best.value)}."
        return Figure(None, text)
    plot = plot_optimization_history(study, target_name=f"validation {primary.label}")
    points, line = plot.data[:2]
    plot.data = (points, line)  # the third trace is for infeasible trials
    shown = f"trial %{{x}}: %{{y{':.2%' if primary.is_share else ':.4g'}}}<extra></extra>"
    points.update(name="one trial", marker={"color": color(5), "size": 8}, hovertemplate=shown, cliponaxis=False)
    line.update(name="best so far", line={"shape": "hv", "width": 2.5}, meta=INK, hovertemplate=shown)
    _restyled(plot, 340, xaxis=_trial_axis(len(study.trials)), yaxis=score_axis(primary))
    return Figure(
        plot,
        f"Validation {primary.label} of {len(trials)} completed trials. Trial {best.number} reached the best, "
        f"{primary.text(best.value)}.",
    )


def slices(study: "Study", keys: Sequence[str], space: Space) -> Figure:
    """Return one panel per key: the validation score of each completed trial by the key's value.

    Args:
        study: study with at least two completed trials.
        keys: keys from `varied_keys`, at least one.
        space: the study's space.
    """
    from optuna.visualization import plot_slice

    primary = space.primary
    plot = plot_slice(study, params=list(keys), target_name=f"validation {primary.label}")
    bar = color_bar("trial") | _trial_ticks(len(study.trials))
    plot.update_traces(
        marker={"colorscale": EARLY_TO_LATE, "colorbar": bar, "size": 8, "line": {"width": 0}}, cliponaxis=False
    )
    for index, key in enumerate(sorted(keys), start=1):
        plot.update_layout({f"xaxis{index if index > 1 else ''}": _value_axis(space.domains[key])})
    _restyled(plot, 320)
    plot.update_yaxes(share_axis(primary.is_share))
    plot.update_layout(width=None, yaxis=score_axis(primary))
    return Figure(
        plot, f"Validation {primary.label} of the completed trials by the values of {', '.join(sorted(keys))}."
    )


def ranked_pair(study: "Study", keys: tuple[str, str], space: Space) -> Figure:
    """Return one point per completed trial by its values of two keys, colored by the rank of its validation score.

    Args:
        study: study with completed trials that have both keys.
        keys: two keys from `varied_keys`.
        space: the study's space.
    """
    from optuna.visualization import plot_rank

    plot = plot_rank(study, params=sorted(keys), target_name=f"validation {space.primary.label}")
    points, bar = plot.data
    points.update(cliponaxis=False, marker={"size": 9})
    bar.marker.colorbar.update(ticktext=LEGEND_OF_RANKS, outlinewidth=0, thickness=12)
    _restyled(plot, 380, **_pair_axes(keys, space.domains))
    return Figure(plot, f"Ranks of the validation {space.primary.label} by {' and '.join(sorted(keys))}.")


def interpolated_pair(study: "Study", keys: tuple[str, str], space: Space) -> Figure:
    """Return the validation score as a landscape over two keys, interpolated between trials; arguments as in
    `ranked_pair`.

    It uses the latest `MOST_INTERPOLATED` trials.
    """
    from optuna.visualization import plot_contour

    primary = space.primary
    both = [trial for trial in study.get_trials(deepcopy=False) if set(keys) <= set(trial.params)]
    latest = both[-MOST_INTERPOLATED:]
    study = study_of(latest, primary)
    plot = plot_contour(study, params=list(keys), target_name=f"validation {primary.label}")
    bar = color_bar(f"validation {primary.label}") | ({"tickformat": "~%"} if primary.is_share else {})
    plot.update_traces(
        {"colorscale": "Cividis", "reversescale": primary.mode == "min", "colorbar": bar}, selector={"type": "contour"}
    )
    plot.update_traces(
        {"marker": {"color": "#ffffff", "size": 6, "line": {"color": "#1b1f24", "width": 1}}, "cliponaxis": False},
        selector={"type": "scatter"},
    )
    _restyled(plot, 380, **_pair_axes(keys, space.domains))
    return Figure(
        plot,
        f"Validation {primary.label} over {' and '.join(sorted(keys))}, interpolated between {len(latest)} trials.",
    )


def _restyled(plot: go.Figure, height: int, **layout: Any) -> None:
    with_layout(plot, height=height, **layout).update_layout(title=None)


def _trial_axis(num_trials: int) -> dict[str, Any]:
    return {"title": {"text": "trial"}, "zeroline": False, **_trial_ticks(num_trials)}


def _trial_ticks(num_trials: int) -> dict[str, Any]:
    """Return ticks at whole numbers."""
    return {"dtick": 1} if num_trials < FEW_TRIALS else {"tickformat": "d"}


def _pair_axes(keys: tuple[str, str], domains: Mapping[str, Domain]) -> dict[str, Any]:
    x, y = sorted(keys)
    return {"xaxis": _value_axis(domains[x]), "yaxis": _value_axis(domains[y])}


def _value_axis(domain: Domain) -> dict[str, Any]:
    """Return the entries of an axis of a key's values: exactly the searched range, whole ticks for whole numbers."""
    if domain.kind in ("choice", "grid"):
        return {"zeroline": False}
    low, high = map(float, domain.values[:2])
    if domain.kind == "randint":
        return {"range": [low - 0.5, high + 0.5], "zeroline": False} | ({"dtick": 1} if high - low < FEW_TRIALS else {})
    if domain.kind == "loguniform":
        low, high = math.log10(low), math.log10(high)
        has_powers = math.floor(high) > math.ceil(low)  # two powers of ten or more, each with a tick
        return {"range": [low, high], "zeroline": False} | ({"dtick": 1} if has_powers else {})
    return {"range": [low, high], "zeroline": False}
