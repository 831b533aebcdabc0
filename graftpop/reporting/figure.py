"""A figure of the report: a plotly figure with its description, and the colors and layout that all figures share."""

import json
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go

__all__ = ["BLUE_TO_ORANGE", "COLOURS", "GREY", "INK", "Drawing", "color", "with_layout"]

GREY: Final = "#8a8a8a"

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", GREY)
"""Told apart by the colour-blind, and readable on white and on black (Okabe and Ito, Color Universal Design)."""

INK: Final = "ink"
"""As `meta` of a trace: its lines and markers have the colour of the text, which the page knows."""

BLUE_TO_ORANGE: Final = ((0.0, "#1f5fbf"), (0.5, "#c9c9c9"), (1.0, "#e07b00"))


@dataclass(frozen=True)
class Drawing:
    """What the page draws, and reads out to those who do not see it."""

    figure: go.Figure
    says: str

    def to_json(self) -> str:
        """Return both as JSON; arrays of numpy stay packed."""
        return f'{{"says": {json.dumps(self.says)}, "figure": {self.figure.to_json(validate=False)}}}'


def color(index: int) -> str:
    """Return the colour of the n-th of several things."""
    return COLOURS[index % len(COLOURS)]


def with_layout(figure: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """Return a figure with the layout that all share; the page adds the colours of its paper and text.

    Args:
        figure: is changed.
        height: in pixels.
        layout: what this one has beside it.
    """
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 24, "b": 48},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"namelength": -1},
        **layout,
    )
