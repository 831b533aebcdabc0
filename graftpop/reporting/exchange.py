"""Figures of the exchange in one trial: alpha, entropies, invalid filters, distances, lineage."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from graftpop.reporting.figure import BLUE_TO_ORANGE, GREY, INK, Drawing, color, with_layout
from graftpop.training.snapshot import ALL_OTHERS

__all__ = ["alpha_map", "distances", "entropy_maps", "invalid_filter_maps", "lineage"]

MOST_COLUMNS = 100
"""Most rounds of a heat map; longer trainings are thinned evenly."""

LEAST_SPAN = 0.05
"""Smallest color range of alpha around 1/2, so that tiny deviations look tiny."""

BY_SITE_AND_ROUND = "%{y}, round %{x}: %{z:.3g}<extra></extra>"


def alpha_map(grafts: pa.Table, receiver: int) -> Drawing:
    """Return alpha, the share of its own weights that a receiver kept, by site and round.

    Args:
        grafts: of the receiver in one trial, at least one row.
        receiver: its index.
    """
    sites, rounds, alpha = _by_site_and_round(grafts, "alpha")
    span = max(LEAST_SPAN, float(np.nanmax(np.abs(alpha - 0.5))))
    figure = go.Figure(
        go.Heatmap(
            z=alpha,
            x=rounds,
            y=sites,
            zmin=0.5 - span,
            zmax=0.5 + span,
            colorscale=BLUE_TO_ORANGE,
            colorbar={"title": {"text": "alpha"}, "thickness": 12},
            hovertemplate=BY_SITE_AND_ROUND,
        )
    )
    with_layout(figure, height=_height(sites), xaxis={"title": {"text": "round"}}, yaxis=_site_axis())
    return Drawing(
        figure,
        f"Alpha of peer {receiver} by site and round: between {np.nanmin(alpha):.3f} and "
        f"{np.nanmax(alpha):.3f}, {np.nanmean(alpha):.3f} on average.",
    )


def entropy_maps(grafts: pa.Table, receiver: int) -> Drawing:
    """Return the entropies of a receiver and of its donors, in nats, by site and round; see `alpha_map`."""
    columns = {"receiver": "receiver_entropy_nats", "donor": "donor_entropy_nats"}
    return _two_maps(grafts, columns, "nats", f"Entropy of the weights of peer {receiver} and of its donors")


def invalid_filter_maps(grafts: pa.Table, receiver: int) -> Drawing:
    """Return the invalid filters of a receiver before and after grafting, by site and round; see `alpha_map`."""
    columns = {"before": "num_invalid_before", "after": "num_invalid_after"}
    return _two_maps(grafts, columns, "filters", f"Invalid filters of peer {receiver} before and after grafting")


def distances(diagnostics: pa.Table) -> Drawing:
    """Return distance of weights and disagreement of predictions of each pair of peers, by round.

    Args:
        diagnostics: `distance` and `disagreement` of one trial, at least one row.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    pairs = sorted({(row["peer"], row["other"]) for row in diagnostics.select(["peer", "other"]).to_pylist()})
    for index, (peer, other) in enumerate(pairs):
        of_pair = pc.and_(pc.equal(diagnostics["peer"], peer), pc.equal(diagnostics["other"], other))
        for row, (name, digits) in enumerate((("distance", ".4g"), ("disagreement", ".2%")), start=1):
            own = diagnostics.filter(pc.and_(of_pair, pc.equal(diagnostics["diagnostic"], name))).sort_by("round")
            figure.add_scatter(
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
    with_layout(
        figure,
        height=520,
        xaxis2={"title": {"text": "round"}},
        xaxis={"showticklabels": False},
        yaxis={"title": {"text": "distance of weights"}, "rangemode": "tozero"},
        yaxis2={"title": {"text": "disagreement"}, "tickformat": ".0%", "rangemode": "tozero"},
    )
    return Drawing(
        figure,
        f"Distance of the weights, and disagreement on validation images, of {len(pairs)} pairs of peers by round.",
    )


def lineage(grafts: pa.Table, events: pa.Table) -> Drawing:
    """Return the donor of each graft, and the peers that were lost, replaced or reseeded.

    A line leads from the donor, at the round of its snapshot, to the receiver in the next round.

    Args:
        grafts: of one trial, all receivers; may be empty.
        events: of the same trial.
    """
    given = grafts.group_by(["round", "receiver", "donor", "staleness"]).aggregate([("alpha", "mean")])
    rows = given.sort_by([("round", "ascending"), ("receiver", "ascending")]).to_pylist()
    figure = go.Figure()
    x: list[float | None] = []
    y: list[int | None] = []
    for row in (row for row in rows if row["donor"] != ALL_OTHERS):
        x += [row["round"] - (row["staleness"] or 0), row["round"] + 1, None]
        y += [row["donor"], row["receiver"], None]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        marker={"size": 3, "color": GREY},
        hoverinfo="skip",
        line={"color": GREY, "width": 1},
        showlegend=False,
    )
    figure.add_scatter(
        x=[row["round"] + 1 for row in rows],
        y=[row["receiver"] for row in rows],
        mode="markers",
        name="received",
        marker={
            "color": [round(row["alpha_mean"], 4) for row in rows],
            "colorscale": BLUE_TO_ORANGE,
            "cmid": 0.5,
            "size": 9,
            "line": {"width": 1, "color": GREY},
            "colorbar": {"title": {"text": "alpha"}, "thickness": 12},
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
        figure.add_scatter(
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
    with_layout(
        figure,
        height=170 + 44 * len(peers),
        xaxis={"title": {"text": "round"}, "zeroline": False},
        yaxis={
            "tickvals": peers,
            "ticktext": [f"peer {peer}" for peer in peers],
            "zeroline": False,
            "range": [len(peers) - 0.5, -0.5],
        },
    )
    return Drawing(
        figure,
        f"{len(rows)} exchanges between {len(peers)} peers, and {len(peer_events)} events of peers that "
        f"were lost, replaced or reseeded.",
    )


SYMBOLS = {"lost": "x", "replaced": "circle-open", "reseeded": "star", "left": "square-x-open"}


def _donor(peer: int) -> str:
    return "the mean of several" if peer == ALL_OTHERS else f"peer {peer}"


def _two_maps(grafts: pa.Table, columns: dict[str, str], unit: str, title: str) -> Drawing:
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=list(columns))
    means, most = [], []
    for row, column in enumerate(columns.values(), start=1):
        sites, rounds, values = _by_site_and_round(grafts, column)
        figure.add_heatmap(
            z=values, x=rounds, y=sites, coloraxis="coloraxis", hovertemplate=BY_SITE_AND_ROUND, row=row, col=1
        )
        most.append(float(np.nanmax(values)))
        means.append(f"{np.nanmean(np.nansum(values, 0) if unit == 'filters' else values):.3g}")
    bounds = {"cmin": 0, "cmax": max(1.0, *most)} if unit == "filters" else {}
    with_layout(
        figure,
        height=2 * _height(sites),
        coloraxis={"colorscale": "Cividis", "colorbar": {"title": {"text": unit}, "thickness": 12}, **bounds},
        xaxis={"showticklabels": False},
        xaxis2={"title": {"text": "round"}},
        yaxis=_site_axis(),
        yaxis2=_site_axis(),
    )
    over = "per round, all sites together" if unit == "filters" else "over sites and rounds"
    return Drawing(figure, f"{title}, by site and round; means {over}: {' and '.join(means)} {unit}.")


def _by_site_and_round(grafts: pa.Table, column: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
    """Return sites in order, rounds (R,) and a column's values (sites, R), NaN for missing ones."""
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
