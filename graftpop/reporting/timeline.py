"""The figure of each trial's running time; Optuna's own timeline has neither stopped nor interrupted trials."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import plotly.graph_objects as go

from graftpop.reporting.figure import COLORS, GREY, Figure, with_layout
from graftpop.study.trials import duration

__all__ = ["timeline"]

COLOR_OF: Final = {
    "completed": COLORS[0],
    "stopped": COLORS[4],
    "running": COLORS[2],
    "interrupted": COLORS[3],
    "failed": COLORS[1],
    "pending": GREY,
}
"""Color of each status; in this order in the legend."""

FEW_TRIALS: Final = 24
"""Numbers of trials up to this get a tick each."""


def timeline(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return one bar per trial from its start to its end, colored by its status; None if no trial has started.

    The bar of a trial that has not ended spans the time until its last round. A bar also spans the time between
    the end of a study and its resumption.

    Args:
        rows: rows of `trials.parquet`.
    """
    started = [row for row in rows if row.get("started_at") is not None]
    if not started:
        return None
    plot = go.Figure()
    ends = {row["trial_id"]: row["ended_at"] or row["started_at"] + timedelta(seconds=row["wall_s"]) for row in started}
    for status, color in COLOR_OF.items():
        of_status = [row for row in started if row["status"] == status]
        if not of_status:
            continue
        plot.add_bar(
            name=status,
            orientation="h",
            marker={"color": color},
            base=[row["started_at"].isoformat() for row in of_status],
            x=[(ends[row["trial_id"]] - row["started_at"]).total_seconds() * 1000 for row in of_status],
            y=[int(row["trial_id"]) for row in of_status],
            customdata=[
                [row["trial_id"], f"{row['started_at']:%H:%M:%S}", f"{ends[row['trial_id']]:%H:%M:%S}"]
                for row in of_status
            ],
            hovertemplate="trial %{customdata[0]}: %{customdata[1]} to %{customdata[2]} UTC<extra>"
            + status
            + "</extra>",
        )
    first, last = min(row["started_at"] for row in started), max(ends.values())
    with_layout(
        plot,
        height=110 + 16 * min(len(rows), 40),
        barmode="overlay",
        showlegend=True,
        xaxis={"type": "date", "title": {"text": "time (UTC)"}},
        yaxis={
            "title": {"text": "trial"},
            "autorange": "reversed",
            "zeroline": False,
            **({"dtick": 1} if len(rows) <= FEW_TRIALS else {"tickformat": "d"}),
        },
    )
    took = duration((last - first).total_seconds())
    trials = f"{len(started)} trial{'s' * (len(started) > 1)}"
    return Figure(plot, f"{trials} from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, in {took}.")
