"""Reports of a trial: the summary of a round for Tune, and the line of an event for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graftpop.metrics import Metric
from graftpop.population import Event, Round
from graftpop.rows import RoundRow

__all__ = ["event_line", "summarize"]


def summarize(
    done: Round, previous: Mapping[str, Any], actors: Iterable[Iterable[int]], metrics: Sequence[Metric]
) -> dict[str, Any]:
    """Return a round's summary: the best peer's metrics, means over peers, and totals since the start of the trial.

    Args:
        done: the round.
        previous: summary of the round before; empty before the first.
        actors: the peers of each actor.
        metrics: metrics of the task.
    """

    def total(name: str, value: float) -> dict[str, float]:
        """Return a total by its name; empty if an earlier version wrote the summary and did not count it."""
        return {name: previous.get(name, 0) + value} if name in previous or not previous else {}

    rows = done.peers
    best = next(row for row in rows if row["peer"] == done.best_peer)
    invalid = [row["num_invalid_filters"] for row in rows if row["num_invalid_filters"] is not None]
    return {
        "round": done.round,
        "epoch": rows[0]["epoch"],
        "num_peers": len(rows),
        "best_peer": done.best_peer,
        **{metric.val: metric.value_of(best) for metric in metrics},
        **{metric.mean: sum(map(metric.value_of, rows)) / len(rows) for metric in metrics},
        "train_loss": sum(row["train_loss"] for row in rows) / len(rows),
        **({"num_invalid_filters": sum(invalid) / len(invalid)} if invalid else {}),
        "images_per_s": images_per_s({row["peer"]: row for row in rows}, actors),
        **total("train_images", sum(row["train_images"] for row in rows)),
        **total("peer_images", max(row["train_images"] for row in rows)),
        **total("time_s", max(row["train_s"] + row["exchange_s"] for row in rows)),
        "exchange_s": rows[0]["exchange_s"],
        "wall_s": previous.get("wall_s", 0.0),
    }


def images_per_s(rows: Mapping[int, RoundRow], actors: Iterable[Iterable[int]]) -> float:
    """Return the images per second of all peers together; peers of one actor train one after the other.

    sum over peers of images / max over actors of (sum over its peers of train_s)
    """
    busy_s: list[float] = [sum(rows[peer]["train_s"] for peer in peers if peer in rows) for peers in actors]
    return sum(row["train_images"] for row in rows.values()) / max(busy_s)


def event_line(event: Event) -> str:
    """Return an event as one line: `round 3: peer 1 replaced after 4.2 s`."""
    who = f"peer {event.peer} " if event.peer is not None else ""
    took = f" after {event.took_s:.1f} s" if event.took_s is not None else ""
    name = event.event.replace("_", " ")
    return f"round {event.round}: {who}{name}{took}{': ' * bool(event.cause)}{event.cause}"
