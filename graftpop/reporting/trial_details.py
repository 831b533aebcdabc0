"""Figures of single trials, limited to the best trials so that the page stays small."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.metrics import Metric
from graftpop.reporting.curves import peers_by_round
from graftpop.reporting.exchange import alpha_map, distances, entropy_maps, invalid_filter_maps, lineage
from graftpop.reporting.figure import Figure
from graftpop.study.trials import best_row

__all__ = ["details_of", "rows_of", "trials_in_detail"]

MOST_TRIALS = 12
MOST_CHARS = 6_000_000
"""Size limit of the figures of all trials together, as JSON; the best trial always has figures."""


def trials_in_detail(rows: Sequence[Mapping[str, Any]], primary: Metric) -> list[str]:
    """Return the IDs of the trials to show in detail, best first.

    Args:
        rows: rows of `trials.parquet`.
        primary: the primary metric of the task.
    """
    remaining = list(rows)
    trials: list[str] = []
    while len(trials) < MOST_TRIALS and (best := best_row(remaining, primary)) is not None:
        trials.append(best["trial_id"])
        remaining.remove(best)
    return trials


def details_of(trials: Sequence[str], tables: Sequence[pa.Table], primary: Metric) -> dict[str, dict[str, str]]:
    """Return each trial's figures as JSON by name, for as many trials as `MOST_CHARS` permits.

    Args:
        trials: trial IDs, best first.
        tables: rounds, grafts, diagnostics and events, with at least the rows of these trials.
        primary: the primary metric of the task.
    """
    details: dict[str, dict[str, str]] = {}
    num_chars_left = MOST_CHARS
    for trial in trials:
        own = (rows_of(table, trial) for table in tables)
        figures = {f"trial/{trial}/{name}": figure.to_json() for name, figure in _figures(trial, primary, *own)}
        num_chars_left -= sum(map(len, figures.values()))
        if details and num_chars_left < 0:
            break
        details[trial] = figures
    return details


def rows_of(table: pa.Table, trial: str) -> pa.Table:
    """Return the rows of one trial."""
    return table.filter(pc.equal(table["trial_id"], trial))


def _figures(
    trial: str, primary: Metric, rounds: pa.Table, grafts: pa.Table, diagnostics: pa.Table, events: pa.Table
) -> Iterator[tuple[str, Figure]]:
    if rounds.num_rows:
        yield "peers", peers_by_round(rounds, trial, primary)
    for receiver in _best_first(rounds, pc.unique(grafts["receiver"]).to_pylist(), primary):
        received = grafts.filter(pc.equal(grafts["receiver"], receiver))
        yield f"alpha/{receiver}", alpha_map(received, receiver)
        yield f"entropies/{receiver}", entropy_maps(received, receiver)
        yield f"invalid/{receiver}", invalid_filter_maps(received, receiver)
    of_pairs = diagnostics.filter(pc.is_in(diagnostics["diagnostic"], pa.array(["distance", "disagreement"])))
    if of_pairs.num_rows:
        yield "distances", distances(of_pairs)
    if grafts.num_rows or pc.any(pc.is_valid(events["peer"])).as_py():
        yield "lineage", lineage(grafts, events)


def _best_first(rounds: pa.Table, peers: Sequence[int], primary: Metric) -> list[int]:
    """Return peers by their validation score in the last round, best first."""
    last = rounds.filter(pc.equal(rounds["round"], pc.max(rounds["round"])))
    merits = {row["peer"]: primary.merit_of(row) for row in last.select(["peer", primary.val]).to_pylist()}
    return sorted(peers, key=lambda peer: merits.get(peer, -math.inf), reverse=True)
