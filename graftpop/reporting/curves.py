"""Figures of training: accuracy of all trials by images trained, and curves of one trial's peers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graftpop.reporting.figure import INK, Figure, color, two_panels, with_layout

__all__ = ["accuracy_by_images", "peers_by_round"]

MOST_POINTS = 40_000
"""Limit for all curves of a figure together; more points take seconds to draw and show nothing new."""

FEWEST_POINTS = 12
"""Minimum number of points per curve, even if that exceeds `MOST_POINTS`."""


def accuracy_by_images(rounds: pa.Table, groups: Mapping[str, str], best: str | None) -> Figure:
    """Return each trial's validation accuracy, of its best peer, by the images that all its peers trained on.

    Populations of different sizes thus compare at equal compute. Large studies are drawn with fewer points per curve.

    Args:
        rounds: rows of `rounds.parquet`, at least one.
        groups: label by trial; one color per label.
        best: ID of the highlighted trial.
    """
    curves = _curves(rounds)
    most = max(FEWEST_POINTS, MOST_POINTS // len(curves))
    plot = go.Figure()
    for index, group in enumerate(dict.fromkeys(groups.values())):
        images: list[int | None] = []  # None between two curves
        accuracies: list[float | None] = []
        trials: list[str | None] = []
        for trial in (trial for trial in curves if groups.get(trial) == group):
            indices = _thinned(len(curves[trial][0]), most)
            x, y = (values[indices] for values in curves[trial])
            images += [*map(int, x), None]
            accuracies += [*(round(float(value), 5) for value in y), None]
            trials += [trial] * (len(x) + 1)
        plot.add_scatter(
            x=images,
            y=accuracies,
            customdata=trials,
            name=group,
            mode="lines",
            opacity=0.55,
            line={"color": color(index), "width": 1.5},
            hovertemplate="trial %{customdata}<br>%{y:.2%} after %{x:,} images",
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
            hovertemplate=f"best trial {best}<br>%{{y:.2%}} after %{{x:,}} images<extra></extra>",
        )
    plot.add_scatter(
        x=[],
        y=[],
        name="selected",
        mode="lines",
        meta=INK,
        line={"width": 2.5, "dash": "dot"},
        showlegend=False,
        hovertemplate="%{y:.2%} after %{x:,} images",
    )
    with_layout(
        plot,
        height=420,
        xaxis={"title": {"text": "images trained by all peers"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "validation accuracy"}, "tickformat": ".0%"},
    )
    description = f"Validation accuracy of {len(curves)} trial{'s' * (len(curves) != 1)} by images trained."
    if best in curves:
        x, y = curves[best]
        description += f" The best, trial {best}, reaches {y[-1]:.2%} after {x[-1]:,.0f} images."
    return Figure(plot, description)


def _curves(rounds: pa.Table) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return for each trial the images trained so far (R,) and the best peer's validation accuracy (R,) by round."""
    by_round = (
        rounds.group_by(["trial_id", "round"])
        .aggregate([("val_accuracy", "max"), ("train_images", "sum")])
        .sort_by([("trial_id", "ascending"), ("round", "ascending")])
    )
    trials = by_round["trial_id"].to_numpy(zero_copy_only=False)
    images, accuracies = by_round["train_images_sum"].to_numpy(), by_round["val_accuracy_max"].to_numpy()
    starts = [0, *(np.flatnonzero(trials[1:] != trials[:-1]) + 1), len(trials)]
    return {str(trials[low]): (images[low:high].cumsum(), accuracies[low:high]) for low, high in pairwise(starts)}


def _thinned(num: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` evenly spread indices below `num`, with the first and the last."""
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(np.int64))


def peers_by_round(rounds: pa.Table, trial: str) -> Figure:
    """Return validation accuracy and training loss of each peer of a trial by round.

    Args:
        rounds: rows of the trial in `rounds.parquet`, at least one.
        trial: trial ID.
    """
    plot = two_panels(
        pc.max(rounds["round"]).as_py(),
        {"title": {"text": "validation accuracy"}, "tickformat": ".0%"},
        {"title": {"text": "training loss"}},
    )
    peers: Sequence[int] = sorted(pc.unique(rounds["peer"]).to_pylist())
    for index, peer in enumerate(peers):
        own = rounds.filter(pc.equal(rounds["peer"], peer)).sort_by("round")
        line = {"color": color(index), "width": 2}
        for row, (column, digits) in enumerate((("val_accuracy", ".2%"), ("train_loss", ".4g")), start=1):
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
    low, high = pc.min_max(last["val_accuracy"]).as_py().values()
    return Figure(
        plot,
        f"Validation accuracy and training loss of {len(peers)} peer{'s' * (len(peers) != 1)} of trial {trial} by "
        f"round. In the last round, accuracy ranges from {low:.2%} to {high:.2%}.",
    )
