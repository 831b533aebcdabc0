"""The columns of a run's tables: their names, types and meanings.

The schemas (`run/schemas.py`) and the tables of docs/records.md are derived from these classes. Every table begins with
`trial_id`, which is added when it is written; `trials` also has the status and the searched keys. METRIC stands for
each metric of the task, such as accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict, TypeVar, cast

from graftpop.metrics import Metric

__all__ = [
    "METRIC",
    "ROWS",
    "DiagnosticRow",
    "Event",
    "EventName",
    "Exchanged",
    "GraftColumns",
    "PeerRow",
    "RoundRow",
    "TrialRow",
    "columns_of",
    "with_metrics",
]

METRIC: Final = "METRIC"
"""Stands for each metric of the task in names of columns."""

T = TypeVar("T", bound=Mapping[str, Any])


class TrialRow(TypedDict, total=False):
    """The figures of a trial; those not measured yet are absent."""

    val_METRIC: Annotated[float, "METRIC of the output on the validation split, last completed round"]
    test_METRIC: Annotated[float, "METRIC of the output on the test split; empty until the trial is completed"]
    ensemble_test_METRIC: Annotated[float, "METRIC of all peers' combined predictions on the test split"]
    num_peers: Annotated[int, "peers in the last round; fewer than at the start if some were lost for good"]
    epochs: Annotated[int, "epochs that each peer trained"]
    train_images: Annotated[int, "images trained on by all peers together, including teachers of the trial"]
    peer_images: Annotated[
        int,
        "images of the peer that trains on most in each round, summed over the rounds, with its teachers'; "
        "`compare.equal: time` compares them",
    ]
    wall_s: Annotated[float, "seconds that the trial ran"]
    started_at: Annotated[datetime, "when its first process started; empty before"]
    ended_at: Annotated[datetime, "when it ended or was interrupted; empty while it waits or runs"]
    time_s: Annotated[
        float,
        "seconds with one device per peer: training and exchange of the slowest peer in each round, summed over rounds",
    ]
    parameters: Annotated[int, "parameters of one network"]
    flops: Annotated[int, "FLOPs of one network for one image"]
    removed_filters: Annotated[int, "filters cut out of the best peer at the end; empty without removal"]
    parameters_left: Annotated[int, "parameters of the best peer after removal; empty without removal"]
    flops_left: Annotated[int, "FLOPs of the best peer for one image after removal; empty without removal"]
    latency_1_ms: Annotated[
        float,
        "milliseconds of the best peer for one image before removal: median of up to 31 forward passes in turns with "
        "the smaller network, on the trial's machine; empty without removal",
    ]
    latency_1_left_ms: Annotated[float, "the same after removal"]
    latency_128_ms: Annotated[float, "milliseconds of the best peer for 128 images before removal; otherwise as above"]
    latency_128_left_ms: Annotated[float, "the same after removal"]
    inference_flops: Annotated[
        int, "FLOPs of the output for one image after removal; of an ensemble the sum over its peers"
    ]
    error: Annotated[str, "reason why the trial failed or was interrupted, in one line; otherwise empty"]


class RoundRow(TypedDict):
    """One peer's results of one round; the population adds the round and the seconds of the exchange."""

    round: Annotated[NotRequired[int], "number of the round, from 1"]
    epoch: Annotated[int, "epochs that the peer has trained so far"]
    peer: Annotated[int, "index of the peer, from 0"]
    lr: Annotated[float, "learning rate at the start of the round's last epoch"]
    train_loss: Annotated[float, "mean loss of the task in the round's last epoch, without further loss terms"]
    train_accuracy: Annotated[
        float | None,
        "accuracy of the round's last epoch, on augmented images and with the labels of `data.label_noise`; "
        "empty for tasks without classes",
    ]
    val_loss: Annotated[
        float | None, "loss on the validation split before the exchange, without label smoothing; empty if it has none"
    ]
    val_METRIC: Annotated[
        NotRequired[float],
        "METRIC on the validation split before the exchange; in the last round, of the peer's final weights",
    ]
    num_invalid_filters: Annotated[
        int | None, "filters of all sites with an L1 norm below 0.1, before the exchange; empty without sites"
    ]
    mean_entropy_nats: Annotated[float | None, "mean of the entropies of the sites' weights; empty without sites"]
    images_per_s: Annotated[float, "training images per second, without validation and exchange"]
    train_images: Annotated[
        int, "images that the peer trained on in this round; the first round includes its teachers'"
    ]
    train_s: Annotated[float, "seconds of training; the first round includes its teachers'"]
    exchange_s: Annotated[
        NotRequired[float],
        "seconds of the whole population's exchange after the round; 0 without one. With a number in "
        "`population.exchange_every`, exchanges count in `train_s`",
    ]


class PeerRow(RoundRow):
    """A row of a round with the peer's diagnostics, until `Round.complete` moves them to rows of their own."""

    diagnostics: NotRequired[list[tuple[str, float]]]


class GraftColumns(TypedDict):
    """The columns of an exchange, one value per receiver and site; the population adds the round and the staleness."""

    round: Annotated[NotRequired[list[int]], "round that the exchange followed"]
    receiver: Annotated[list[int], "the peer whose weights changed"]
    donor: Annotated[list[int], "the peer whose snapshot it got; -1 for the mean of several"]
    site: Annotated[list[str], "name of the site: of its layer, with the part of a query-key-value matrix"]
    receiver_entropy_nats: Annotated[list[float], "entropy of the receiver's weights at this site before the exchange"]
    donor_entropy_nats: Annotated[list[float], "entropy of the donor's weights"]
    alpha: Annotated[
        list[float],
        "share of its own weights that the receiver kept; with `graft.level: filter` the mean over the filters",
    ]
    num_invalid_before: Annotated[
        list[int], "filters of the receiver's site with an L1 norm below 0.1, before the exchange"
    ]
    num_invalid_after: Annotated[list[int], "the same after the exchange"]
    staleness: Annotated[
        NotRequired[list[int]],
        "rounds by which the snapshot is older than the receiver, negative if the donor was ahead; "
        "the oldest of several snapshots counts",
    ]


class Exchanged(TypedDict):
    """The records of one receiver's exchange: figures for `diagnostics.parquet`, and the columns of grafting."""

    figures: dict[str, float]
    columns: GraftColumns | None


class DiagnosticRow(TypedDict):
    """One diagnostic of a peer after a round; the population adds the round."""

    round: Annotated[NotRequired[int], "number of the round, from 1"]
    peer: Annotated[int, "index of the peer, from 0"]
    other: Annotated[int | None, "the second peer of a comparison of two; otherwise empty"]
    diagnostic: Annotated[
        str,
        "`network_information_nats`, the sum of the sites' entropies, if there are sites; "
        "`num_filters_below_T` for every `diagnostics.thresholds`; "
        "`density_valid` and `density_invalid` with `diagnostics.density_of`; "
        "`distance` and `disagreement` with `diagnostics.pairs`; "
        "`align_moved` with `align`; `papa_share`, `papa_distance`, `wash_share`, `sparta_share` and `outer_gradient` "
        "of these rules; names that a user-defined rule returns. Figures of rules are means over the round's exchanges",
    ]
    value: Annotated[
        float, "the value, in the unit of its diagnostic; a disagreement is a share of the validation items"
    ]


EventName = Literal[
    "lost", "replaced", "left", "reseeded", "ended_early", "checkpoint_skipped", "records_damaged", "storage_away"
]


@dataclass(frozen=True)
class Event:
    """A failure that a population survived, or its early end."""

    at: Annotated[datetime, "time in UTC"] = field(init=False, compare=False, default_factory=lambda: datetime.now(UTC))
    round: Annotated[int, "round, from 1; 0 is before the first"]
    peer: Annotated[int | None, "the peer; empty for all"]
    event: Annotated[
        EventName,
        "`lost` (its process died or timed out), `replaced` (it is back in its last state), "
        "`left` (the others continue without it), "
        "`reseeded` (its loss was not finite; it took its donor's weights), "
        "`ended_early` (by `training.patience`), "
        "`checkpoint_skipped` (damaged, not written, or ahead of the trial that was to adopt it), "
        "`records_damaged` (a file with the trial's rows was cut short or changed; some rows may be missing), "
        "`storage_away` (nothing could be written for a while)",
    ]
    cause: Annotated[str, "cause in one line"]
    took_s: Annotated[float | None, "seconds until it continued, if known"] = None


ROWS: Final[Mapping[str, type]] = {
    "trials": TrialRow,
    "rounds": RoundRow,
    "grafts": GraftColumns,
    "diagnostics": DiagnosticRow,
    "events": Event,
}
"""The class of each table's columns."""


def columns_of(row: type, metrics: Sequence[Metric]) -> dict[str, str]:
    """Return the columns of a class of rows in order, each with the field that it comes from.

    >>> list(columns_of(TrialRow, [Metric("map"), Metric("rank1")]))[:4]
    ['val_map', 'val_rank1', 'test_map', 'test_rank1']
    """
    return {
        name.replace(METRIC, metric.name): name
        for name in row.__annotations__
        for metric in (metrics if METRIC in name else metrics[:1])
    }


def with_metrics(row: T, split: str, scores: Mapping[str, float]) -> T:
    """Return a row with the columns of some metrics on a split: val, test or ensemble_test."""
    return cast(T, {**row, **{f"{split}_{name}": value for name, value in scores.items()}})
