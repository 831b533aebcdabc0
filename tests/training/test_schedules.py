"""Learning rates over time, against torch's schedulers and the values of the released code."""

import math
from fractions import Fraction

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from graftpop.settings import SwaSettings
from graftpop.training.schedules import SCHEDULES, constant, cosine, learning_rate, peer_learning_rate, step


def rates(scheduler: LRScheduler, num_steps: int) -> list[float]:
    """Return the learning rate of each step."""
    found = []
    for _ in range(num_steps):
        found.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        scheduler.step()
    return found


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def test_step_equals_torchs_step_scheduler_epoch_by_epoch() -> None:
    expected = rates(StepLR(sgd(), step_size=60, gamma=0.1), 200)
    assert [0.1 * step(epoch, 200) for epoch in range(200)] == pytest.approx(expected, rel=1e-12)


def test_step_changes_between_epochs_only() -> None:
    assert [step(59 + batch / 391, 200) for batch in (0, 390)] == [1.0, 1.0]
    assert [step(60 + batch / 391, 200) for batch in (0, 390)] == [pytest.approx(0.1)] * 2


@pytest.mark.parametrize(("epochs", "num_batches"), [(1, 1), (3, 7), (20, 13)])
def test_cosine_equals_torchs_cosine_scheduler_batch_by_batch(epochs: int, num_batches: int) -> None:
    expected = rates(CosineAnnealingLR(sgd(), epochs * num_batches), epochs * num_batches)
    found = [
        0.1 * cosine(epoch + batch / num_batches, epochs) for epoch in range(epochs) for batch in range(num_batches)
    ]
    assert found == pytest.approx(expected, rel=1e-9)


def test_cosine_goes_from_one_to_zero() -> None:
    assert cosine(0, 30) == 1.0
    assert cosine(15, 30) == pytest.approx(0.5)
    assert cosine(30, 30) == 0.0


def test_constant_is_one() -> None:
    assert [constant(epochs_done, 10) for epochs_done in (0, 0.5, 10)] == [1.0] * 3


def test_schedules_table_is_complete() -> None:
    assert dict(SCHEDULES) == {"step": step, "cosine": cosine, "constant": constant}


@pytest.mark.parametrize(
    ("num_peers", "expected"),
    [
        (1, [0.1]),
        (2, [0.05, 0.1]),
        (3, [0.025, 0.075, 0.1]),
        (4, [0.0146, 0.05, 0.0854, 0.1]),
        (6, [0.0067, 0.025, 0.05, 0.075, 0.0933, 0.1]),
    ],
)
def test_peers_have_the_learning_rates_of_the_released_code(num_peers: int, expected: list[float]) -> None:
    found = [peer_learning_rate(0.1, peer, num_peers) for peer in range(num_peers)]
    assert found == pytest.approx(expected, abs=5e-5)


def test_eight_peers_span_a_26th_to_the_full_rate() -> None:
    found = [peer_learning_rate(0.1, peer, 8) for peer in range(8)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.0038, abs=5e-5)
    assert found[-1] == 0.1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_is_the_initial_one_times_the_schedule(schedule: str) -> None:
    at = learning_rate(0.2, schedule, 100)
    assert [at(epochs_done) for epochs_done in (0.0, 12.5, 61.0)] == [
        0.2 * SCHEDULES[schedule](epochs_done, 100) for epochs_done in (0.0, 12.5, 61.0)
    ]


def test_swa_learning_rate_is_constant_from_its_start() -> None:
    at = learning_rate(0.2, "cosine", 100, SwaSettings(start=0.75, lr=0.03))
    plain = learning_rate(0.2, "cosine", 100)
    steps = [batch / 8 for batch in range(800)]
    assert [at(done) for done in steps if done < 75] == [plain(done) for done in steps if done < 75]
    assert {at(done) for done in steps if done >= 75} == {0.03}


@pytest.mark.parametrize("swa", [None, SwaSettings(start=0.5)])
def test_swa_without_a_learning_rate_keeps_the_schedule(swa: SwaSettings | None) -> None:
    at, plain = learning_rate(0.2, "cosine", 10, swa), learning_rate(0.2, "cosine", 10)
    assert [at(done / 4) for done in range(41)] == [plain(done / 4) for done in range(41)]


@pytest.mark.parametrize(("start", "epochs"), [(0.75, 100), (0.29, 100), (0.07, 100), (0.14, 50), (0.0, 3), (0.3, 7)])
def test_swa_rate_begins_with_the_first_whole_epoch(start: float, epochs: int) -> None:
    """In floating point, 0.07 * 100 is 7.000000000000001; averaging must still begin with the step at epoch 7."""
    at = learning_rate(0.2, "constant", epochs, SwaSettings(start=start, lr=0.03))
    first = next(epoch for epoch in range(epochs + 1) if at(float(epoch)) == 0.03)
    assert first == math.ceil(Fraction(str(start)) * epochs)
