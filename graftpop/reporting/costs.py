"""Figures of a comparison: the test score of every variant against one of its costs."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from graftpop.comparison import Group
from graftpop.comparison.caveats import EQUAL_COMPUTE
from graftpop.comparison.groups import COSTS
from graftpop.metrics import Metric
from graftpop.reporting.figure import INK, Figure, color, score_axis, with_layout

__all__ = ["score_by_cost"]

LABEL_PX = 15
"""Height of a label, in pixels."""

SHORTEST_PX = 240
"""Smallest height of the plot's area, in pixels."""

MOST_CHARACTERS = 18
"""Longest label; a point shows the full name when it is pointed at."""

NEAR = 0.05
"""Costs that differ by less, as a share of the highest cost, are drawn side by side."""

STEP = 0.03
"""Largest distance of two points that are drawn side by side, as a share of the highest cost."""

WIDEST = 0.3
"""Widest row of such points, as a share of the highest cost; three times as wide if there is no other row."""


def score_by_cost(group: Group, cost: str) -> Figure:
    """Return the mean test score of every variant, with its standard deviation, against one of its costs.

    Variants with nearly equal costs are drawn side by side. Names are in a column at the right, so they never overlap;
    a line leads from each to its point. A dotted line connects the Pareto front of score and FLOPs. Costs that differ
    by less than `EQUAL_COMPUTE` have no plot.

    Args:
        group: group with at least one variant whose score and cost are known.
        cost: a key of `COSTS`.
    """
    primary, places_of = group.primary, {line.variant: place for place, line in enumerate(group.lines)}
    lines, *columns = zip(*group.with_costs(cost), strict=True)
    scores, costs = (np.array(column, float) for column in columns)
    unit, size = _unit(costs.max()) if cost == "time" else ("", 1.0)
    costs /= size
    if costs.max() - costs.min() <= EQUAL_COMPUTE * costs.max():
        return Figure(None, f"All {len(lines)} variants: {_range(costs)}{unit}.")
    x, is_one_row = _side_by_side(costs, scores)
    stds = np.array([line.std or 0.0 for line in lines])
    low, high = (scores - stds).min(), (scores + stds).max()
    pad = 0.05 * (high - low) or 0.01 * (abs(high) or 1.0)
    low, high = low - pad, high + pad
    if primary.is_share:
        low, high = max(0.0, low), min(1.0, high)
    area_px = max(SHORTEST_PX, LABEL_PX * len(lines))
    heights = _spread(scores, LABEL_PX / area_px * (high - low), low, high)
    left, right = x.min() - NEAR * costs.max(), x.max() + NEAR * costs.max()
    labels = [_shortened(line.variant) for line in lines]
    plot = go.Figure()
    front = [lines.index(line) for line in group.front] if cost == "flops" else []
    if len(front) > 1:
        plot.add_scatter(
            x=x[front].tolist(),
            y=scores[front].tolist(),
            name="Pareto front",
            mode="lines",
            line={"shape": "hv", "width": 1, "dash": "dot"},
            meta=INK,
            hoverinfo="skip",
        )
    for line, point, score, height, value in zip(lines, x, scores, heights, costs, strict=True):
        is_baseline = line.variant == group.baseline
        shared = {"name": line.variant, "meta": INK if is_baseline else None, "mode": "lines"}
        own_color = color(places_of[line.variant])
        plot.add_scatter(
            x=[point, right],
            y=[score, height],
            line={"color": own_color, "width": 1},
            opacity=0.45,
            hoverinfo="skip",
            **shared,
        )
        plot.add_scatter(
            x=[point],
            y=[score],
            error_y=_error_bar(score, line.std or 0.0, primary),
            cliponaxis=False,
            marker={"color": own_color, "size": 9, "symbol": "diamond" if is_baseline else "circle"},
            text=f"{primary.text(score)} \u00b1 {primary.text(line.std)}".removesuffix(" \u00b1 "),
            hovertemplate=f"{line.variant}: %{{text}}<br>{_number(value)}{unit}<extra></extra>",
            **shared | {"mode": "markers"},
        )
    plot.add_scatter(
        x=[right] * len(labels),
        y=heights.tolist(),
        text=labels,
        mode="text",
        textposition="middle right",
        textfont={"size": 11},
        cliponaxis=False,
        hoverinfo="skip",
    )
    with_layout(
        plot,
        height=area_px + 72,
        showlegend=False,
        xaxis={
            "title": {"text": f"{COSTS[cost]}{unit and f',{unit}'}"},
            "range": [left if is_one_row else min(0.0, left), right],
            "zeroline": False,
            **({"tickvals": [(left + right) / 2], "ticktext": [_range(costs)]} if is_one_row else {}),
        },
        yaxis={"range": [low, high], "zeroline": False, **score_axis(primary, "test")},
    )
    plot.update_layout(margin={"r": 12 + 7 * max(map(len, labels))})
    return Figure(plot, f"Mean test {primary.label} of {len(labels)} variants by {COSTS[cost]}, as in the table.")


def _error_bar(score: float, std: float, primary: Metric) -> dict[str, Any]:
    """Return the error bar of a score, within [0, 1] for a share."""
    above, below = (min(std, 1 - score), min(std, score)) if primary.is_share else (std, std)
    return {"type": "data", "array": [above], "arrayminus": [below], "thickness": 1.5, "width": 3}


def _shortened(name: str) -> str:
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}\u2026"


def _number(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _range(costs: NDArray[np.float64]) -> str:
    """Return the lowest and the highest cost, once if they are equal."""
    return " to ".join(dict.fromkeys(map(_number, (costs.min(), costs.max()))))


def _unit(most_s: float) -> tuple[str, float]:
    """Return a unit of time with a space before it, and its seconds; the largest one that is needed three times."""
    return next(((unit, size) for unit, size in ((" h", 3600.0), (" min", 60.0)) if most_s >= 3 * size), (" s", 1.0))


def _side_by_side(costs: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Return the place of each variant on the axis of a cost, and whether all lie in one row.

    Costs that are nearly equal form a row around their mean, ordered by cost, and by score if the costs are equal.
    """
    order = np.argsort(costs, kind="stable")
    gaps = np.diff(costs[order], prepend=costs.min()) / (costs.max() or 1.0)
    ranks = np.empty(len(costs))
    ranks[order] = np.cumsum(gaps > EQUAL_COMPUTE)
    rows = np.split(order, np.flatnonzero(gaps > NEAR))
    places = np.empty(len(costs))
    for row in rows:
        row = row[np.lexsort((scores[row], ranks[row]))]
        step = costs.max() * min(STEP, WIDEST / len(row)) * (3 if len(rows) == 1 else 1)
        places[row] = costs[row].mean() + step * (np.arange(len(row)) - (len(row) - 1) / 2)
    return places, len(rows) == 1


def _spread(values: NDArray[np.float64], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Return heights near some values, in their order, at least `gap` apart and half a gap inside [low, high]."""
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    free = values[order] - steps  # heights that are a gap apart become equal, so only their order has to be kept
    up, down = np.maximum.accumulate(free), np.minimum.accumulate(free[::-1])[::-1]
    heights = np.empty(len(values))
    heights[order] = np.clip((up + down) / 2, low + gap / 2, high - gap / 2 - steps[-1]) + steps
    return heights
