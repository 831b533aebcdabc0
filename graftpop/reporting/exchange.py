"""Figures of the exchange in one trial: alpha, entropies, invalid filters, distances between peers, and donors."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from graftpop.reporting.figure import (
    BLUE_TO_ORANGE,
    GREY,
    INK,
    Figure,
    color,
    color_bar,
    round_axis,
    share_axis,
    two_panels,
    with_layout,
)
from graftpop.training.snapshot import ALL_OTHERS

__all__ = ["alpha_map", "distances", "entropy_maps", "invalid_filter_maps", "lineage"]

MOST_COLUMNS = 100
"""Largest number of rounds in a heat map; a longer training is drawn by evenly spread rounds, with the last one."""

TITLE_HEIGHT = 48
"""Space in pixels for the title between two heat maps."""

BY_SITE_AND_ROUND = "%{y}, round %{x}: %{z:.3g}<extra></extra>"


def alpha_map(grafts: pa.Table, receiver: int) -> Figure:
    """Return a receiver's alpha, the share of its own weights that it kept, by site and round.

    Colors span [0, 1] in every figure, so those of different receivers and trials compare.

    Args:
        grafts: rows of this receiver in one trial, at least one.
        receiver: peer number of the receiver.
    """
    sites, rounds, alpha = _by_site_and_round(grafts, "alpha")
    low, high = np.nanmin(alpha), np.nanmax(alpha)
    if low == high:
        return Figure(None, f"Alpha of peer {receiver} was {low:.3g} at every site in every round.")
    plot = go.Figure(
        go.Heatmap(
            z=alpha,
            x=rounds,
            y=sites,
            zmin=0,
            zmax=1,
            colorscale=BLUE_TO_ORANGE,
            colorbar=color_bar("alpha"),
            hovertemplate=BY_SITE_AND_ROUND,
        )
    )
    with_layout(plot, height=_height(sites), xaxis=round_axis(int(rounds[-1] - rounds[0] + 1)), yaxis=_site_axis())
    return Figure(
        plot,
        f"Alpha of peer {receiver} by site and round: from {low:.3f} to {high:.3f}, "
        f"{np.nanmean(alpha):.3f} on average.",
    )


def entropy_maps(grafts: pa.Table, receiver: int) -> Figure:
    """Return the entropies of a receiver and its donors, in nats, by site and round; arguments as in `alpha_map`."""
    columns = {"receiver": "receiver_entropy_nats", "donor": "donor_entropy_nats"}
    return _two_maps(grafts, columns, "nats", f"Entropy of the weights of peer {receiver} and its donors")


def invalid_filter_maps(grafts: pa.Table, receiver: int) -> Figure:
    """Return a receiver's invalid filters before and after grafting, by site and round; arguments as in `alpha_map`."""
    columns = {"before": "num_invalid_before", "after": "num_invalid_after"}
    return _two_maps(grafts, columns, "filters", f"Invalid filters of peer {receiver} before and after grafting")


def distances(diagnostics: pa.Table) -> Figure:
    """Return the distance between the weights of each pair of peers, and the share of different predictions, by round.

    Args:
        diagnostics: rows for `distance` and `disagreement` in one trial, at least one.
    """
    plot = two_panels(
        pc.max(diagnostics["round"]).as_py(),
        {"title": {"text": "distance between weights"}, "rangemode": "tozero"},
        {"title": {"text": "disagreement"}, "rangemode": "tozero", **share_axis()},
    )
    pairs = sorted({(row["peer"], row["other"]) for row in diagnostics.select(["peer", "other"]).to_pylist()})
    for index, (peer, other) in enumerate(pairs):
        of_pair = pc.and_(pc.equal(diagnostics["peer"], peer), pc.equal(diagnostics["other"], other))
        for row, (name, digits) in enumerate((("distance", ".4g"), ("disagreement", ".2%")), start=1):
            own = diagnostics.filter(pc.and_(of_pair, pc.equal(diagnostics["diagnostic"], name))).sort_by("round")
            plot.add_scatter(
                x=own["round"].to_numpy(),
                y=own["value"].to_numpy().astype(np.float32),
                name=f"{peer} and {other}",
                mode="lines",
                line={"color": color(index), "width": 2},
                legendgroup=f"{peer}-{other}",
                showlegend=row == 1,
                hovertemplate=f"round %{{x}}: %{{y:{digits}}}",
                row=row,
                col=1,
            )
    return Figure(
        plot,
        f"Distance between the weights, and disagreement on validation images, for {len(pairs)} "
        f"pair{'s' * (len(pairs) != 1)} of peers by round.",
    )


def lineage(grafts: pa.Table, events: pa.Table) -> Figure:
    """Return the donor of each exchange, and which peers were lost, replaced or reseeded.

    A line runs from the donor, at the round of its snapshot, to the receiver in the round after the exchange.

    Args:
        grafts: rows of all receivers in one trial; may be empty.
        events: events of the same trial.
    """
    exchanges = grafts.group_by(["round", "receiver", "donor", "staleness"]).aggregate([("alpha", "mean")])
    rows = exchanges.sort_by([("round", "ascending"), ("receiver", "ascending")]).to_pylist()
    plot = go.Figure()
    x: list[float | None] = []
    y: list[int | None] = []
    for row in (row for row in rows if row["donor"] != ALL_OTHERS):
        x += [row["round"] - (row["staleness"] or 0), row["round"] + 1, None]
        y += [row["donor"], row["receiver"], None]
    plot.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        marker={"size": 3, "color": GREY},
        hoverinfo="skip",
        line={"color": GREY, "width": 1},
        showlegend=False,
    )
    plot.add_scatter(
        x=[row["round"] + 1 for row in rows],
        y=[row["receiver"] for row in rows],
        mode="markers",
        name="received",
        marker={
            "color": [round(row["alpha_mean"], 4) for row in rows],
            "colorscale": BLUE_TO_ORANGE,
            "cmin": 0,
            "cmax": 1,
            "size": 9,
            "line": {"width": 1, "color": GREY},
            "colorbar": color_bar("alpha"),
        },
        text=[
            f"after round {row['round']}: peer {row['receiver']} from {_donor(row['donor'])}, mean alpha "
            f"{row['alpha_mean']:.3f}"
            for row in rows
        ],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    peer_events = [row for row in events.to_pylist() if row["peer"] is not None and row["event"] in SYMBOLS]
    for event in dict.fromkeys(row["event"] for row in peer_events):
        own = [row for row in peer_events if row["event"] == event]
        plot.add_scatter(
            x=[row["round"] for row in own],
            y=[row["peer"] for row in own],
            mode="markers",
            name=event,
            meta=INK,
            marker={"symbol": SYMBOLS[event], "size": 13, "line": {"width": 2}},
            text=[row["cause"] for row in own],
            hovertemplate=f"{event} in round %{{x}}: %{{text}}<extra></extra>",
        )
    peers = sorted(
        {row["receiver"] for row in rows}
        | {row["donor"] for row in rows} - {ALL_OTHERS}
        | {row["peer"] for row in peer_events}
    )
    first, last = min(peers, default=0), max(peers, default=0)  # peers between them may have no exchange and no event
    with_layout(
        plot,
        height=170 + 44 * (last - first + 1),
        xaxis=round_axis(max((row["round"] for row in [*rows, *peer_events]), default=0)) | {"zeroline": False},
        yaxis={
            "tickvals": peers,
            "ticktext": [f"peer {peer}" for peer in peers],
            "zeroline": False,
            "range": [last + 0.5, first - 0.5],
        },
    )
    return Figure(
        plot,
        f"{len(rows)} exchanges between {len(peers)} peers, and {len(peer_events)} events: peers that left, or were "
        f"lost, replaced or reseeded.",
    )


SYMBOLS = {"lost": "x", "replaced": "circle-open", "reseeded": "star", "left": "square-x-open"}


def _donor(peer: int) -> str:
    return "the mean of several peers" if peer == ALL_OTHERS else f"peer {peer}"


def _two_maps(grafts: pa.Table, columns: dict[str, str], unit: str, title: str) -> Figure:
    sites, rounds, _ = _by_site_and_round(grafts, "alpha")
    maps = [_by_site_and_round(grafts, column)[2] for column in columns.values()]
    over = "per round, all sites together" if unit == "filters" else "over sites and rounds"
    low, high = np.nanmin(maps), np.nanmax(maps)
    if low == high:
        return Figure(None, f"{title}: {low:.3g} {unit} at every site in every round.")
    height = 2 * _height(sites)
    spacing = TITLE_HEIGHT / height  # else the second title overlaps the first map
    plot = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=list(columns))
    means = []
    for row, values in enumerate(maps, start=1):
        plot.add_heatmap(
            z=values, x=rounds, y=sites, coloraxis="coloraxis", hovertemplate=BY_SITE_AND_ROUND, row=row, col=1
        )
        means.append(f"{np.nanmean(np.nansum(values, 0) if unit == 'filters' else values):.3g}")
    bounds = {"cmin": 0, "cmax": max(1.0, float(high))} if unit == "filters" else {}
    with_layout(
        plot,
        height=height,
        coloraxis={"colorscale": "Cividis", "colorbar": color_bar(unit), **bounds},
        xaxis=round_axis(int(rounds[-1] - rounds[0] + 1)) | {"title": None, "showticklabels": False, "ticks": ""},
        xaxis2=round_axis(int(rounds[-1] - rounds[0] + 1)),
        yaxis=_site_axis(),
        yaxis2=_site_axis(),
    )
    return Figure(plot, f"{title}, by site and round. Means {over}: {' and '.join(means)} {unit}.")


def _by_site_and_round(grafts: pa.Table, column: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
    """Return the S sites in order, the rounds (R,), and a column's values (S, R) with NaN for absent rows."""
    rounds = np.unique(grafts["round"].to_numpy())
    if len(rounds) > MOST_COLUMNS:
        rounds = rounds[np.linspace(0, len(rounds) - 1, MOST_COLUMNS).round().astype(int)]
    encoded = grafts["site"].combine_chunks().dictionary_encode()
    sites = encoded.dictionary.to_pylist()
    values = np.full((len(sites), len(rounds)), np.nan, dtype=np.float32)
    columns = np.searchsorted(rounds, grafts["round"].to_numpy())
    is_drawn = rounds[columns.clip(max=len(rounds) - 1)] == grafts["round"].to_numpy()
    values[encoded.indices.to_numpy()[is_drawn], columns[is_drawn]] = grafts[column].to_numpy()[is_drawn]
    return sites, rounds, values


def _height(sites: Sequence[str]) -> int:
    return 120 + max(8, min(22, 900 // len(sites))) * len(sites)


def _site_axis() -> dict[str, object]:
    return {"autorange": "reversed", "automargin": True, "type": "category"}
