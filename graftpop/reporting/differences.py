"""Figure of a comparison: the difference of each variant from the baseline, per seed and on average."""

import plotly.graph_objects as go

from graftpop.comparison import Group
from graftpop.comparison.difference import CONFIDENCE
from graftpop.reporting.figure import INK, Figure, color, with_layout

__all__ = ["paired_differences"]


def paired_differences(group: Group) -> Figure:
    """Return the mean difference of each variant with its interval, and one dot per seed, in percentage points.

    Args:
        group: group with at least one difference.
    """
    differences = {line.variant: line.difference for line in group.ranked if line.difference is not None}
    scale, unit, digits = (100, " points", ".2f") if group.primary.is_share else (1, "", ".4g")
    title = f"difference from {group.baseline}{', points' * group.primary.is_share}{group.primary.direction}"
    limits = {"minallowed": -100, "maxallowed": 100} if group.primary.is_share else {}
    seeds = [
        (variant, seed, scale * value)
        for variant, difference in differences.items()
        for seed, value in difference.by_seed.items()
    ]
    plot = go.Figure()
    plot.add_scatter(
        x=[value for *_, value in seeds],
        y=[variant for variant, *_ in seeds],
        mode="markers",
        name="one seed",
        marker={"color": color(5), "size": 8, "opacity": 0.7},
        customdata=[str(seed) for _, seed, _ in seeds],
        hovertemplate=f"%{{y}}, seed %{{customdata}}: %{{x:+{digits}}}{unit}<extra></extra>",
    )
    means = {variant: scale * difference.mean for variant, difference in differences.items()}
    half = [
        0.0 if difference.interval is None else scale * (difference.interval[1] - difference.mean)
        for difference in differences.values()
    ]
    plot.add_scatter(
        x=list(means.values()),
        y=list(differences),
        mode="markers",
        meta=INK,
        name=f"mean and {100 * CONFIDENCE:.0f} % interval",
        marker={"size": 10, "symbol": "diamond"},
        error_x={"type": "data", "array": half, "thickness": 2},
        customdata=half,
        hovertemplate=f"%{{y}}: %{{x:+{digits}}} \u00b1 %{{customdata:{digits}}}{unit}<extra></extra>",
    )
    with_layout(
        plot,
        height=140 + 30 * len(differences),
        yaxis={"type": "category", "range": [len(differences) - 0.5, -0.5], "automargin": True},
        xaxis={"title": {"text": title}, "zeroline": True, "zerolinewidth": 2, **limits},
    )
    return Figure(
        plot,
        f"Differences of {len(differences)} variant{'s' * (len(differences) != 1)} from {group.baseline}: means with "
        f"intervals, as in the table, and each seed.",
    )
