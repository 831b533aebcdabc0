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
    "round_axis",
    "score_axis",
    "two_panels",
    "with_layout",
]

GREY: Final = "#8a8a8a"

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", GREY)
"""Distinguishable with color blindness and readable on white and black (Okabe and Ito, Color Universal Design)."""

INK: Final = "ink"
"""As `meta` of a trace: the page draws its lines and markers in the color of the text."""

BLUE_TO_ORANGE: Final = ((0.0, "#1f5fbf"), (0.5, "#c9c9c9"), (1.0, "#e07b00"))


@dataclass(frozen=True)
class Figure:
    """A plot with a description for screen readers."""

    plot: go.Figure
    description: str

    def to_json(self) -> str:
        """Return plot and description as JSON; numpy arrays stay packed."""
        return f'{{"description": {json.dumps(self.description)}, "plot": {self.plot.to_json(validate=False)}}}'


def color(index: int) -> str:
    """Return a color by index; colors repeat after the last one."""
    return COLORS[index % len(COLORS)]


def score_axis(metric: Metric) -> dict[str, Any]:
    """Return the axis of a metric on the validation split."""
    return {
        "title": {"text": f"validation {metric.label}{metric.direction}"},
        **({"tickformat": ".0%"} if metric.is_share else {}),
    }


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
