"""A figure of the report: a plotly figure with its description, and the colors and layout that all figures share."""

import json
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go

__all__ = ["BLUE_TO_ORANGE", "COLORS", "GREY", "INK", "Drawing", "color", "with_layout"]

GREY: Final = "#8a8a8a"

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", GREY)
"""Distinguishable with color blindness, readable on white and black (Okabe and Ito, Color Universal Design)."""

INK: Final = "ink"
"""Value of `meta` for traces in the page's text color."""

BLUE_TO_ORANGE: Final = ((0.0, "#1f5fbf"), (0.5, "#c9c9c9"), (1.0, "#e07b00"))


@dataclass(frozen=True)
class Drawing:
    """A figure with its text for screen readers."""

    figure: go.Figure
    says: str

    def to_json(self) -> str:
        """Return figure and text as JSON; numpy arrays stay packed."""
        return f'{{"says": {json.dumps(self.says)}, "figure": {self.figure.to_json(validate=False)}}}'


def color(index: int) -> str:
    """Return the n-th color of the palette."""
    return COLORS[index % len(COLORS)]


def with_layout(figure: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """Return a figure with the common layout; the page adds background and text colors.

    Args:
        figure: changed in place.
        height: in pixels.
        layout: additional layout of this figure.
    """
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 24, "b": 48},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"namelength": -1},
        **layout,
    )
