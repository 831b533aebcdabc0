"""A round's summary, an event's line, and whether a peer was grafted after its evaluation."""

from pathlib import Path
from typing import Any

import pytest

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
    summary = summarize(done, {"train_images": 400, "wall_s": 9.0}, [[0], [1]], [ACCURACY])
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
        "exchange_s": 0.25,
        "wall_s": 9.0,
    }


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
