"""A figure of the report: a plotly figure with its description, and the colors and layout that all figures share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from graftpop.metrics import Metric

__all__ = [
    "BLUE_TO_ORANGE",
    "COLORS",
    "GREY",
    "INK",
    "Figure",
    "color",
    "color_bar",
    "round_axis",
    "score_axis",
    "share_axis",
    "two_panels",
    "with_layout",
]

GREY: Final = "#8a8a8a"

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", GREY)
"""Distinguishable with color blindness and readable on white and black (Okabe and Ito, Color Universal Design)."""

INK: Final = "ink"
"""As `meta` of a trace: the page draws its lines and markers in the color of the text."""

BLUE_TO_ORANGE: Final = (
    (0.0, "#123f8c"),
    (0.3, "#1f5fbf"),
    (0.45, "#8aa6d8"),
    (0.5, "#c9c9c9"),
    (0.55, "#eab878"),
    (0.7, "#e07b00"),
    (1.0, "#a34f00"),
)
"""For alpha on [0, 1]; steep around 1/2, where most values are."""


@dataclass(frozen=True)
class Figure:
    """A plot with a description for screen readers; without a plot, the page shows the description."""

    plot: go.Figure | None
    description: str

    def to_json(self) -> str:
        """Return plot and description as JSON; numpy arrays stay packed."""
        plot = "null" if self.plot is None else self.plot.to_json(validate=False)
        return f'{{"description": {json.dumps(self.description)}, "plot": {plot}}}'


def color(index: int) -> str:
    """Return a color by index; colors repeat after the last one."""
    return COLORS[index % len(COLORS)]


def share_axis(is_share: bool = True) -> dict[str, Any]:
    """Return the entries of an axis of shares, in percent within [0, 1]; empty if the values are no shares."""
    return {"tickformat": "~%", "minallowed": 0, "maxallowed": 1} if is_share else {}


def score_axis(metric: Metric, split: str = "validation") -> dict[str, Any]:
    """Return the axis of a metric on a split."""
    return {"title": {"text": f"{split} {metric.label}{metric.direction}"}, **share_axis(metric.is_share)}


def color_bar(title: str) -> dict[str, Any]:
    """Return a narrow color bar with a title."""
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0}


def round_axis(num_rounds: int) -> dict[str, Any]:
    """Return an axis with ticks at whole rounds; the ticks that plotly chooses are whole from 12 rounds on."""
    return {"title": {"text": "round"}, **({"dtick": 1} if num_rounds < 12 else {})}


def two_panels(num_rounds: int, upper: Mapping[str, Any], lower: Mapping[str, Any]) -> go.Figure:
    """Return an empty plot of two panels, one above the other, that share an x axis of rounds.

    Args:
        num_rounds: number of the last round.
        upper: y axis of the upper panel, row 1.
        lower: y axis of the lower panel, row 2.
    """
    return with_layout(
        make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08),
        height=520,
        xaxis=round_axis(num_rounds) | {"title": None, "showticklabels": False},
        xaxis2=round_axis(num_rounds),
        yaxis=upper,
        yaxis2=lower,
    )


def with_layout(plot: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """Set the shared layout on a plot and return the plot. The page sets the colors of background and text.

    Args:
        plot: plot to change.
        height: height in pixels.
        layout: further entries of the layout.
    """
    return plot.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 24, "b": 48},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"namelength": -1},
        **layout,
    )
