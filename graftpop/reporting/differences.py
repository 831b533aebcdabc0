"""Figure of a comparison: each variant's difference to the baseline, per seed and on average."""

import plotly.graph_objects as go

from graftpop.comparison import Group
from graftpop.comparison.difference import CONFIDENCE
from graftpop.reporting.figure import INK, Drawing, color, with_layout

__all__ = ["paired_differences"]


def paired_differences(group: Group) -> Drawing:
    """Return one marker per variant with its interval, and one dot per seed, in percentage points.

    Args:
        group: with at least one difference.
    """
    variants = list(group.differences)
    seeds = [
        (variant, seed, 100 * value)
        for variant, difference in group.differences.items()
        for seed, value in difference.by_seed.items()
    ]
    figure = go.Figure()
    figure.add_scatter(
        x=[value for *_, value in seeds],
        y=[variant for variant, *_ in seeds],
        mode="markers",
        name="one seed",
        marker={"color": color(5), "size": 8, "opacity": 0.7},
        customdata=[str(seed) for _, seed, _ in seeds],
        hovertemplate="%{y}, seed %{customdata}: %{x:+.2f} points<extra></extra>",
    )
    means = {variant: 100 * difference.mean for variant, difference in group.differences.items()}
    half = [
        0.0 if difference.interval is None else 100 * (difference.interval[1] - difference.mean)
        for difference in group.differences.values()
    ]
    figure.add_scatter(
        x=list(means.values()),
        y=variants,
        mode="markers",
        meta=INK,
        name=f"mean and {100 * CONFIDENCE:.0f} % interval",
        marker={"size": 10, "symbol": "diamond"},
        error_x={"type": "data", "array": half, "thickness": 2},
        customdata=half,
        hovertemplate="%{y}: %{x:+.2f} \u00b1 %{customdata:.2f} points<extra></extra>",
    )
    with_layout(
        figure,
        height=140 + 30 * len(variants),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={
            "title": {"text": f"difference to {group.baseline}, percentage points"},
            "zeroline": True,
            "zerolinewidth": 2,
        },
    )
    return Drawing(
        figure, f"Differences of {len(variants)} variants to {group.baseline} with their intervals, and of each seed."
    )
