"""Figures of single trials, for the best trials within a size limit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.reporting.curves import peers_by_round
from graftpop.reporting.exchange import alpha_map, distances, entropy_maps, invalid_filter_maps, lineage
from graftpop.reporting.figure import Drawing
from graftpop.study.trials import best_row

__all__ = ["details_of", "rows_of", "trials_in_detail"]

MOST_TRIALS = 12
MOST_CHARS = 6_000_000
"""Limit for the figures of all trials together; the best trial's are always included."""


def trials_in_detail(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the trials to show in detail, the best first.

    Args:
        rows: of `trials.parquet`.
    """
    left = list(rows)
    chosen: list[str] = []
    while len(chosen) < MOST_TRIALS and (best := best_row(left)) is not None:
        chosen.append(best["trial_id"])
        left.remove(best)
    return chosen


def details_of(trials: Sequence[str], tables: Sequence[pa.Table]) -> dict[str, dict[str, str]]:
    """Return the figures of each trial as JSON by name, up to the size limit.

    Args:
        trials: the best first.
        tables: rounds, grafts, diagnostics and events, with at least the rows of these trials.
    """
    found: dict[str, dict[str, str]] = {}
    room = MOST_CHARS
    for trial in trials:
        own = (rows_of(table, trial) for table in tables)
        drawn = {f"trial/{trial}/{name}": drawing.to_json() for name, drawing in _drawings(trial, *own)}
        room -= sum(map(len, drawn.values()))
        if found and room < 0:
            break
        found[trial] = drawn
    return found


def rows_of(table: pa.Table, trial: str) -> pa.Table:
    """Return the rows of one trial."""
    return table.filter(pc.equal(table["trial_id"], trial))


def _drawings(
    trial: str, rounds: pa.Table, grafts: pa.Table, diagnostics: pa.Table, events: pa.Table
) -> Iterator[tuple[str, Drawing]]:
    if rounds.num_rows:
        yield "peers", peers_by_round(rounds, trial)
    for receiver in _best_first(rounds, pc.unique(grafts["receiver"]).to_pylist()):
        received = grafts.filter(pc.equal(grafts["receiver"], receiver))
        yield f"alpha/{receiver}", alpha_map(received, receiver)
        yield f"entropies/{receiver}", entropy_maps(received, receiver)
        yield f"invalid/{receiver}", invalid_filter_maps(received, receiver)
    of_pairs = diagnostics.filter(pc.is_in(diagnostics["diagnostic"], pa.array(["distance", "disagreement"])))
    if of_pairs.num_rows:
        yield "distances", distances(of_pairs)
    if grafts.num_rows or pc.any(pc.is_valid(events["peer"])).as_py():
        yield "lineage", lineage(grafts, events)


def _best_first(rounds: pa.Table, peers: Sequence[int]) -> list[int]:
    """Return peers sorted by validation accuracy in the last round, the highest first."""
    last = rounds.filter(pc.equal(rounds["round"], pc.max(rounds["round"])))
    reached = dict(zip(last["peer"].to_pylist(), last["val_accuracy"].to_pylist(), strict=True))
    return sorted(peers, key=lambda peer: reached.get(peer, -1.0), reverse=True)
