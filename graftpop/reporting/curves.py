"""Figures of training: score of all trials by images trained, and curves of one trial's peers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graftpop.metrics import Metric
from graftpop.reporting.figure import INK, Figure, color, score_axis, two_panels, with_layout

__all__ = ["score_by_images", "peers_by_round"]

MOST_POINTS = 40_000
"""Limit for all curves of a figure together; more points take seconds to draw and show nothing new."""

FEWEST_POINTS = 12
"""Minimum number of points per curve, even if that exceeds `MOST_POINTS`."""


def score_by_images(rounds: pa.Table, groups: Mapping[str, str], best: str | None, primary: Metric) -> Figure:
    """Return each trial's validation score, of its best peer, by the images that all its peers trained on.

    Populations of different sizes thus compare at equal compute. Large studies are drawn with fewer points per curve.

    Args:
        rounds: rows of `rounds.parquet`, at least one.
        groups: label by trial; one color per label.
        best: ID of the highlighted trial.
        primary: the primary metric of the task.
    """
    curves = _curves(rounds, primary)
    shown, digits = (":.2%", 5) if primary.is_share else (":.4g", 8)
    most = max(FEWEST_POINTS, MOST_POINTS // len(curves))
    plot = go.Figure()
    for index, group in enumerate(dict.fromkeys(groups.values())):
        images: list[int | None] = []  # None between two curves
        scores: list[float | None] = []
        trials: list[str | None] = []
        for trial in (trial for trial in curves if groups.get(trial) == group):
            indices = _thinned(len(curves[trial][0]), most)
            x, y = (values[indices] for values in curves[trial])
            images += [*map(int, x), None]
            scores += [*(round(float(value), digits) for value in y), None]
            trials += [trial] * (len(x) + 1)
        plot.add_scatter(
            x=images,
            y=scores,
            customdata=trials,
            name=group,
            mode="lines",
            opacity=0.55,
            line={"color": color(index), "width": 1.5},
            hovertemplate=f"trial %{{customdata}}<br>%{{y{shown}}} after %{{x:,}} images",
        )
    if best in curves:
        x, y = curves[best]
        plot.add_scatter(
            x=x.tolist(),
            y=y.tolist(),
            name=f"best: {best}",
            mode="lines",
            meta=INK,
            line={"width": 3},
            hovertemplate=f"best trial {best}<br>%{{y{shown}}} after %{{x:,}} images<extra></extra>",
        )
    plot.add_scatter(
        x=[],
        y=[],
        name="selected",
        mode="lines",
        meta=INK,
        line={"width": 2.5, "dash": "dot"},
        showlegend=False,
        hovertemplate=f"%{{y{shown}}} after %{{x:,}} images",
    )
    with_layout(
        plot,
        height=420,
        xaxis={"title": {"text": "images trained by all peers"}, "rangemode": "tozero"},
        yaxis=score_axis(primary),
    )
    description = f"Validation {primary.label} of {len(curves)} trial{'s' * (len(curves) != 1)} by images trained."
    if best in curves:
        x, y = curves[best]
        description += f" The best, trial {best}, reaches {primary.text(y[-1])} after {x[-1]:,.0f} images."
    return Figure(plot, description)


def _curves(rounds: pa.Table, primary: Metric) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return for each trial the images trained so far (R,) and the best peer's validation score (R,) by round."""
    by_round = (
        rounds.group_by(["trial_id", "round"])
        .aggregate([(primary.val, primary.mode), ("train_images", "sum")])
        .sort_by([("trial_id", "ascending"), ("round", "ascending")])
    )
    trials = by_round["trial_id"].to_numpy(zero_copy_only=False)
    images, scores = by_round["train_images_sum"].to_numpy(), by_round[f"{primary.val}_{primary.mode}"].to_numpy()
    starts = [0, *(np.flatnonzero(trials[1:] != trials[:-1]) + 1), len(trials)]
    return {str(trials[low]): (images[low:high].cumsum(), scores[low:high]) for low, high in pairwise(starts)}


def _thinned(num: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` evenly spread indices below `num`, with the first and the last."""
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(np.int64))


def peers_by_round(rounds: pa.Table, trial: str, primary: Metric) -> Figure:
    """Return validation score and training loss of each peer of a trial by round.

    Args:
        rounds: rows of the trial in `rounds.parquet`, at least one.
        trial: trial ID.
        primary: the primary metric of the task.
    """
    plot = two_panels(pc.max(rounds["round"]).as_py(), score_axis(primary), {"title": {"text": "training loss"}})
    peers: Sequence[int] = sorted(pc.unique(rounds["peer"]).to_pylist())
    for index, peer in enumerate(peers):
        own = rounds.filter(pc.equal(rounds["peer"], peer)).sort_by("round")
        line = {"color": color(index), "width": 2}
        for row, (column, digits) in enumerate(
            ((primary.val, ".2%" if primary.is_share else ".4g"), ("train_loss", ".4g")), start=1
        ):
            plot.add_scatter(
                x=own["round"].to_numpy(),
                y=own[column].to_numpy().astype(np.float32),
                name=f"peer {peer}",
                line=line,
                mode="lines+markers" if len(own) < 40 else "lines",
                legendgroup=str(peer),
                showlegend=row == 1,
                hovertemplate=f"round %{{x}}: %{{y:{digits}}}",
                row=row,
                col=1,
            )
    last = rounds.filter(pc.equal(rounds["round"], pc.max(rounds["round"])))
    low, high = pc.min_max(last[primary.val]).as_py().values()
    return Figure(
        plot,
        f"Validation {primary.label} and training loss of {len(peers)} peer{'s' * (len(peers) != 1)} of trial {trial} "
        f"by round. In the last round, {primary.label} ranges from {primary.text(low)} to {primary.text(high)}.",
    )
