"""Training curves: all trials by images trained, and the peers of one trial."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from graftpop.reporting.figure import INK, Drawing, color, with_layout

__all__ = ["accuracy_by_images", "peers_by_round"]

MOST_POINTS = 40_000
"""Most points of all curves of a figure; more take seconds to draw and show nothing new."""

FEWEST_POINTS = 12


def accuracy_by_images(rounds: pa.Table, groups: Mapping[str, str], best: str | None) -> Drawing:
    """Return the best peer's validation accuracy of each trial by images trained by all its peers.

    So populations of different sizes compare at equal compute. Long studies are drawn with fewer points a curve.

    Args:
        rounds: at least one row, of the run's `rounds.parquet`.
        groups: by trial, what it is coloured after.
        best: the trial that stands out.
    """
    curves = _curves(rounds)
    most = max(FEWEST_POINTS, MOST_POINTS // len(curves))
    figure = go.Figure()
    for index, group in enumerate(dict.fromkeys(groups.values())):
        images: list[int | None] = []  # None between two curves
        accuracies: list[float | None] = []
        trials: list[str | None] = []
        for trial in (trial for trial in curves if groups.get(trial) == group):
            kept = _thinned(len(curves[trial][0]), most)
            x, y = (values[kept] for values in curves[trial])
            images += [*map(int, x), None]
            accuracies += [*(round(float(value), 5) for value in y), None]
            trials += [trial] * (len(x) + 1)
        figure.add_scatter(
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
        figure.add_scatter(
            x=x.tolist(),
            y=y.tolist(),
            name=f"best: {best}",
            mode="lines",
            meta=INK,
            line={"width": 3},
            hovertemplate=f"best trial {best}<br>%{{y:.2%}} after %{{x:,}} images<extra></extra>",
        )
    figure.add_scatter(
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
        figure,
        height=420,
        xaxis={"title": {"text": "images trained by all peers"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "validation accuracy"}, "tickformat": ".0%"},
    )
    reached = (
        ""
        if best not in curves
        else (f" The best, trial {best}, reaches {curves[best][1][-1]:.2%} after {curves[best][0][-1]:,.0f} images.")
    )
    return Drawing(figure, f"Validation accuracy of {len(curves)} trials by images trained.{reached}")


def _curves(rounds: pa.Table) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return images trained so far and validation accuracy of each trial, by round."""
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
    """Return at most `most` of `num` indices, evenly spread, including the first and the last."""
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(np.int64))


def peers_by_round(rounds: pa.Table, trial: str) -> Drawing:
    """Return validation accuracy and training loss of each peer of a trial by round.

    Args:
        rounds: of the trial, at least one row.
        trial: its name.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    peers: Sequence[int] = sorted(pc.unique(rounds["peer"]).to_pylist())
    for index, peer in enumerate(peers):
        own = rounds.filter(pc.equal(rounds["peer"], peer)).sort_by("round")
        line = {"color": color(index), "width": 2}
        for row, (column, digits) in enumerate((("val_accuracy", ".2%"), ("train_loss", ".4g")), start=1):
            figure.add_scatter(
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
    with_layout(
        figure,
        height=520,
        xaxis2={"title": {"text": "round"}},
        xaxis={"showticklabels": False},
        yaxis={"title": {"text": "validation accuracy"}, "tickformat": ".0%"},
        yaxis2={"title": {"text": "training loss"}},
    )
    last = rounds.filter(pc.equal(rounds["round"], pc.max(rounds["round"])))
    low, high = pc.min_max(last["val_accuracy"]).as_py().values()
    return Drawing(
        figure,
        f"Validation accuracy and training loss of {len(peers)} peers of trial {trial} by round; in "
        f"the last round their accuracies are between {low:.2%} and {high:.2%}.",
    )
