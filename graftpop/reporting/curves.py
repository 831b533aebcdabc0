"""Figures of training: score of all trials by images trained, and curves of one trial's peers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graftpop.metrics import Metric
from graftpop.reporting.figure import COLORS, GREY, INK, Figure, color, score_axis, two_panels, with_layout

__all__ = ["Variant", "mean_score_by_images", "peers_by_round", "score_by_images"]

MOST_POINTS = 40_000
"""Limit for all curves of a figure together; more points take seconds to draw and show nothing new."""

FEWEST_POINTS = 12
"""Minimum number of points per curve, even if that exceeds `MOST_POINTS`."""


FEW_CURVES = 30
"""Up to this number, the curves of a search are nearly opaque; more would cover each other."""

MOST_VISIBLE = 7
"""Number of variants that are drawn at first; the page shows the others by their names."""

DASHES = ("solid", "dash", "dot", "dashdot")


class Variant(NamedTuple):
    """A variant of a comparison.

    Attributes:
        label: its name, with the other searched values.
        trials: IDs of its completed trials, at least one.
        place: index of its color.
        is_baseline: whether the others are compared with it.
    """

    label: str
    trials: Sequence[str]
    place: int
    is_baseline: bool


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
    mode = "lines" if max(len(x) for x, _ in curves.values()) > 1 else "markers"  # one point makes no line
    plot = go.Figure()
    for index, group in enumerate(dict.fromkeys(groups.values())):
        plot.add_scatter(
            **_joined({trial: curve for trial, curve in curves.items() if groups.get(trial) == group}, most, digits),
            name=group,
            mode=mode,
            opacity=0.9 if len(curves) <= FEW_CURVES else 0.55,
            line={"color": color(index), "width": 1.5},
            hovertemplate=f"trial %{{customdata}}<br>%{{y{shown}}} after %{{x:,}} images",
        )
    if best in curves:
        x, y = curves[best]
        plot.add_scatter(
            x=x.tolist(),
            y=y.tolist(),
            name=f"best: {best}",
            mode=mode,
            meta=INK,
            line={"width": 3},
            hovertemplate=f"best trial {best}<br>%{{y{shown}}} after %{{x:,}} images<extra></extra>",
        )
    _finished(plot, primary)
    description = f"Validation {primary.label} of {len(curves)} trial{'s' * (len(curves) != 1)} by images trained."
    if best in curves:
        x, y = curves[best]
        description += f" The best, trial {best}, reaches {primary.text(y[-1])} after {x[-1]:,.0f} images."
    return Figure(plot, description)


def _joined(
    curves: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]], most: int, digits: int
) -> dict[str, list[int | float | str | None]]:
    """Return the curves of several trials as one trace with the trials' IDs as `customdata`.

    Args:
        curves: images and scores by trial.
        most: largest number of points per curve.
        digits: number of digits of a score.
    """
    joined: dict[str, list[int | float | str | None]] = {"x": [], "y": [], "customdata": []}
    for trial, curve in curves.items():
        indices = _thinned(len(curve[0]), most)
        x, y = (values[indices] for values in curve)
        joined["x"] += [*map(int, x), None]  # None between two curves
        joined["y"] += [*(round(float(value), digits) for value in y), None]
        joined["customdata"] += [trial] * (len(x) + 1)
    return joined


def _finished(plot: go.Figure, primary: Metric, legend_rows: int = 1) -> None:
    """Add an empty curve, which the page fills with the selected trial's, and the layout."""
    shown = ":.2%" if primary.is_share else ":.4g"
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
        height=400 + 20 * legend_rows,
        xaxis={"title": {"text": "images trained by all peers"}, "rangemode": "tozero"},
        yaxis=score_axis(primary),
    )


def mean_score_by_images(rounds: pa.Table, variants: Sequence[Variant], primary: Metric) -> Figure:
    """Return each variant's mean validation score, of the best peers, by images trained, with a band of one std.

    A trial that ended early counts with its last score. The first `MOST_VISIBLE` variants are visible at first.

    Args:
        rounds: rows of `rounds.parquet`, with those of all these trials.
        variants: variants in the order of the legend, at least one.
        primary: the primary metric of the task.
    """
    curves = _curves(rounds, primary)
    shown, digits = (":.2%", 5) if primary.is_share else (":.4g", 8)
    most = max(FEWEST_POINTS, MOST_POINTS // (3 * len(variants) + len(curves)))
    plot, ends = go.Figure(), []
    for rank, variant in enumerate(variants):
        x, means, stds = _mean_curve([curves[trial] for trial in variant.trials], most)
        low, high = means - stds, means + stds
        if primary.is_share:
            low, high = low.clip(0, 1), high.clip(0, 1)
        shared = {"legendgroup": variant.label, "visible": True if rank < MOST_VISIBLE else "legendonly"}
        tint = GREY if variant.is_baseline else color(variant.place)
        if len(variant.trials) > 1:
            plot.add_scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([high, low[::-1]]).astype(np.float32),
                fill="toself",
                fillcolor=tint,
                opacity=0.2,
                mode="lines",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **shared,
            )
        plot.add_scatter(
            x=x,
            y=means.astype(np.float32),
            text=[primary.text(float(std)) for std in stds],
            name=variant.label,
            mode="lines" if len(x) > 1 else "markers",
            meta=INK if variant.is_baseline else None,
            line={"color": tint, "width": 2, "dash": DASHES[variant.place // len(COLORS) % len(DASHES)]},
            hovertemplate=f"%{{y{shown}}} \u00b1 %{{text}} after %{{x:,}} images",
            **shared,
        )
        ends.append(f"{variant.label} {primary.text(float(means[-1]))}")
    plot.add_scatter(**_joined(curves, most, digits), visible=False)  # for the selected trial
    _finished(plot, primary, legend_rows=-(-len(variants) // 5))
    plot.update_layout(legend={"maxheight": 0.25})  # a phone scrolls in it
    return Figure(plot, f"Mean validation {primary.label} by images trained. It ends at: {', '.join(ends)}.")


def _mean_curve(
    curves: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return images trained, mean score and its standard deviation (n - 1), each (R,) with R at most `most`.

    Args:
        curves: images and scores of each trial by round; a shorter one continues with its last score.
        most: largest number of rounds.
    """
    images = max((images for images, _ in curves), key=len)
    scores = np.array([np.pad(own, (0, len(images) - len(own)), mode="edge") for _, own in curves])
    stds = scores.std(axis=0, ddof=1) if len(scores) > 1 else np.zeros(len(images))
    rounds = _thinned(len(images), most)
    return images[rounds], scores.mean(axis=0)[rounds], stds[rounds]


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
