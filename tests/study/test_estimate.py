"""The estimated duration of a study: peers x epochs x images x time per image / peers at once, and validation."""

from typing import Any

import pytest
from network_kinds import Slow
from space_makers import make_settings

from graftpop.errors import ModelError
from graftpop.study import estimate as estimates
from graftpop.study.estimate import PlannedTrial, estimate

IMAGE_S = 1e-3
VALIDATION, TEST = 20, 359


@pytest.fixture(autouse=True)
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the time that networks of the class Slow take, however busy the machine is."""
    monkeypatch.setattr(estimates, "clock", lambda: Slow.now)
    monkeypatch.setattr(Slow, "sizes", [])


def planned(network: str = "Slow", num_at_once: int = 1, **sections: Any) -> PlannedTrial:
    settings = make_settings(sections, model={"name": f"python:network_kinds.{network}"})
    return PlannedTrial(settings, "cpu", 1, num_at_once)


def test_duration_counts_trials_peers_epochs_images_and_validation() -> None:
    two, three = (
        planned(num_at_once=2, training={"epochs": 4}, population={"num_peers": num_peers, "epochs_per_round": 2})
        for num_peers in (2, 3)
    )
    found = estimate([two, three], 10)
    of_a_peer = 4 * 180 + 2 * VALIDATION + TEST  # validation after each of 2 rounds, the test set once
    assert found.seconds == pytest.approx(10 * 2.5 * of_a_peer / 2 * IMAGE_S)
    assert found.batch_s == pytest.approx(64 * IMAGE_S)
    assert (found.batch_size, found.num_at_once) == (64, 2)


def test_study_lasts_at_least_as_long_as_one_peer() -> None:
    found = estimate([planned(num_at_once=64)], 1)
    assert found.seconds == pytest.approx((2 * (180 + VALIDATION) + TEST) * IMAGE_S)


def test_slowest_batch_is_named() -> None:
    found = estimate([planned(training={"batch_size": size}) for size in (32, 90, 64)], 3)
    assert (found.batch_size, found.batch_s) == (90, pytest.approx(90 * IMAGE_S))


def test_few_batches_are_timed() -> None:
    estimate([planned(training={"batch_size": 2, "epochs": 50})], 1)
    assert len(Slow.sizes) < 20


def test_batch_that_takes_too_long_is_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "TIMING_S", 0.1)
    found = estimate([planned(training={"batch_size": 180})], 1)
    assert sum(Slow.sizes) < 180
    assert found.batch_s == pytest.approx(180 * IMAGE_S)


def test_network_that_cannot_train_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        estimate([planned("FailsInTraining")], 1)
    message = str(caught.value)
    assert message.startswith("model.name: 'python:network_kinds.FailsInTraining' ")
    assert "ArithmeticError: no gradient" in message
    assert "\n" not in message


def test_images_of_each_kind_of_augmentation_are_timed() -> None:
    estimate([planned(), planned(augmentation={"mixup": 0.2}), planned(augmentation={"mixup": 0.4})], 3)
    once = [*Slow.sizes]
    Slow.sizes.clear()
    estimate([planned()], 1)
    assert len(once) == 2 * len(Slow.sizes)
