"""A round's summary, an event's line, and whether a peer was grafted after its evaluation."""

from pathlib import Path
from typing import Any

import pytest
from population_makers import run
from space_makers import make_settings

from graftpop.cluster.recorder import was_grafted
from graftpop.cluster.trial_report import event_line, summarize
from graftpop.metrics import ACCURACY
from graftpop.population import Event, Round
from graftpop.rows import GraftColumns
from graftpop.run.run_folder import RunFolder
from graftpop.run.trial_records import TrialRecords


def row(peer: int, **changes: Any) -> Any:
    return {
        "peer": peer,
        "epoch": 2,
        "val_accuracy": 0.5 + peer / 10,
        "train_loss": 1.0 + peer,
        "num_invalid_filters": 4 * peer,
        "images_per_s": 100.0,
        "train_s": 2.0,
        "train_images": 200,
        "exchange_s": 0.25,
        **changes,
    }


def test_summary_has_means_over_peers_and_totals_over_rounds() -> None:
    done = Round(2, False, [row(0), row(1)])
    before = {"train_images": 400, "peer_images": 200, "time_s": 3.0, "wall_s": 9.0}
    summary = summarize(done, before, [[0], [1]], [ACCURACY])
    assert summary == {
        "round": 2,
        "epoch": 2,
        "num_peers": 2,
        "best_peer": 1,
        "val_accuracy": 0.6,
        "mean_val_accuracy": 0.55,
        "train_loss": 1.5,
        "num_invalid_filters": 2.0,
        "images_per_s": 200.0,
        "train_images": 800,
        "peer_images": 400,
        "time_s": 5.25,
        "exchange_s": 0.25,
        "wall_s": 9.0,
    }


def totals_of(*rounds: list[Any], summary: dict[str, Any] | None = None) -> list[float | None]:
    """Return images, images per device and seconds after some rounds of rows."""
    for number, rows in enumerate(rounds, start=1):
        summary = summarize(Round(number, False, rows), summary or {}, [[0, 1]], [ACCURACY])
    assert summary is not None
    return [summary.get(name) for name in ("train_images", "peer_images", "time_s")]


def test_device_per_peer_is_as_busy_as_the_peer_with_most_in_each_round() -> None:
    """Peers that share an actor count like peers with a device each; the first round may be of one peer alone."""
    alone = [row(0, train_images=100, train_s=1.0, exchange_s=0.0)]
    taught = [row(0, train_images=300, train_s=3.0), row(1, train_images=100, train_s=1.0)]
    even = [row(0, train_images=100, train_s=1.0), row(1, train_images=100, train_s=2.0)]
    assert totals_of(alone, taught, even) == [700, 500, 1.0 + 3.25 + 2.25]
    unequal = [row(0, train_s=1.0, exchange_s=4.0), row(1, train_s=3.0, exchange_s=0.5)]  # asynchronous rounds
    assert totals_of(unequal) == [400, 200, 5.0]


@pytest.mark.parametrize(
    ("population", "images", "epochs", "of_one_device"),
    [
        ({"num_peers": 1}, 4, 4, 4),
        ({"num_peers": 3}, 12, 4, 4),
        ({"num_peers": 3, "branch_at": 0.5}, 2 + 3 * 2, 4, 2 + 2),
        ({"num_peers": 2, "branch_at": 0.5, "epochs_per_round": 2}, 2 + 2 * 2, 4, 2 + 2),
        ({"num_peers": 2, "sync_until": 1.0}, 8, 4, 4),
        ({"num_peers": 3, "sync_until": 0.5}, 12, 4, 4),
    ],
)
def test_common_epochs_count_once_for_all_peers_and_fully_for_each(
    population: dict[str, Any], images: int, epochs: int, of_one_device: int
) -> None:
    """Images are in passes over the 180 training images."""
    settings = make_settings(training={"epochs": 4}, population=population)
    _, rounds = run(settings)
    summary: dict[str, Any] = {}
    for done in rounds:
        summary = summarize(done, summary, [range(3)], settings.metrics)
    assert (summary["train_images"], summary["peer_images"]) == (180 * images, 180 * of_one_device)
    assert (summary["epoch"], summary["num_peers"]) == (epochs, population["num_peers"])
    critical_path = (max(row["train_s"] + row["exchange_s"] for row in done.peers) for done in rounds)
    assert summary["time_s"] == pytest.approx(sum(critical_path))


def test_totals_that_an_earlier_version_did_not_count_stay_unknown() -> None:
    before = {"round": 1, "train_images": 400, "wall_s": 9.0}
    assert totals_of([row(0), row(1)], [row(0), row(1)], summary=before) == [1200, None, None]


@pytest.mark.parametrize(
    ("actors", "expected"), [([[0], [1]], 400 / 3.0), ([[0, 1]], 400 / 4.0), ([[0, 1, 2]], 400 / 4.0)]
)
def test_speed_adds_up_times_of_peers_in_one_actor(actors: list[list[int]], expected: float) -> None:
    rows = [row(0, train_s=1.0, images_per_s=200.0), row(1, train_s=3.0, images_per_s=200 / 3)]
    assert summarize(Round(1, False, rows), {}, actors, [ACCURACY])["images_per_s"] == pytest.approx(expected)


def test_event_line_names_round_peer_duration_and_cause() -> None:
    assert event_line(Event(3, 1, "replaced", "", 4.2)) == "round 3: peer 1 replaced after 4.2 s"
    assert event_line(Event(0, None, "storage_away", "disk full")) == "round 0: storage away: disk full"


def test_was_grafted_only_for_receivers_of_the_round(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.create()
    assert not was_grafted(run, "00000", 1, 0)  # no table yet
    records = TrialRecords(run.of_trials("records"), "00000", [ACCURACY])
    for number, alpha in ((1, 0.5), (2, 1.0), (3, None)):
        done = Round(number, number == 3, [])
        if alpha is not None:
            columns: GraftColumns = {
                "receiver": [1],
                "donor": [0],
                "site": ["conv1"],
                "receiver_entropy_nats": [1.0],
                "donor_entropy_nats": [1.0],
                "alpha": [alpha],
                "num_invalid_before": [0],
                "num_invalid_after": [0],
            }
            done.add_exchanges({1: {"figures": {}, "columns": columns}})
        done.complete()
        records.add_round(done)
    records.write()
    run.join_records(["00000"], now=True)
    assert was_grafted(run, "00000", 1, 1)
    assert not was_grafted(run, "00000", 1, 0)  # a donor only
    assert not was_grafted(run, "00000", 2, 1)  # alpha 1 keeps all weights
    assert not was_grafted(run, "00000", 3, 1)  # no exchange: burn-in, the last round, or another source
    assert not was_grafted(run, "00001", 1, 1)
