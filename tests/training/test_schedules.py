"""Learning rates over time, against torch's schedulers and the values of the released code."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    StepLR,
)

from graftpop.settings import SwaSettings, TrainingSettings
from graftpop.training.schedules import (
    SCHEDULES,
    constant,
    cosine,
    learning_rate,
    linear,
    one_cycle,
    peak_epoch,
    peer_learning_rate,
    step,
    warmup,
)


def training(**keys: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"lr": 0.2, **keys})


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


@pytest.mark.parametrize("milestones", [[2], [1, 2, 5], [3, 9]])
def test_listed_decays_equal_torchs_multi_step_scheduler(milestones: list[int]) -> None:
    expected = rates(MultiStepLR(sgd(), milestones, gamma=0.3), 7)
    at = learning_rate(training(lr=0.1, decay_epochs=milestones, decay_rate=0.3), 7)
    assert [at(float(epoch)) for epoch in range(7)] == pytest.approx(expected, rel=1e-12)


def test_decays_after_other_epochs_equal_torchs_step_scheduler() -> None:
    expected = rates(StepLR(sgd(), step_size=4, gamma=0.5), 13)
    at = learning_rate(training(lr=0.1, decay_epochs=4, decay_rate=0.5), 13)
    assert [at(float(epoch)) for epoch in range(13)] == pytest.approx(expected, rel=1e-12)


def by_batch(of: TrainingSettings, epochs: int, num_batches: int, lr: float | None = None) -> list[float]:
    at = learning_rate(of, epochs, lr=lr)
    return [at(epoch + batch / num_batches) for epoch in range(epochs) for batch in range(num_batches)]


def test_cosine_falls_to_the_minimum_as_torchs_does() -> None:
    expected = rates(CosineAnnealingLR(sgd(), 20, eta_min=0.01), 20)
    of = training(lr=0.1, schedule="cosine", min_lr=0.01)
    assert by_batch(of, 4, 5) == pytest.approx(expected, rel=1e-9)
    assert learning_rate(of, 4)(4.0) == pytest.approx(0.01)


def test_linear_equals_torchs_polynomial_of_power_1() -> None:
    expected = rates(PolynomialLR(sgd(), total_iters=20, power=1.0), 20)
    assert by_batch(training(lr=0.1, schedule="linear"), 4, 5) == pytest.approx(expected, rel=1e-9)


def test_linear_falls_to_the_minimum() -> None:
    of = training(lr=0.1, schedule="linear", min_lr=0.02)
    assert [learning_rate(of, 4)(epochs_done) for epochs_done in (0.0, 2.0, 4.0)] == pytest.approx([0.1, 0.06, 0.02])


def test_peers_with_other_rates_fall_to_the_same_share() -> None:
    of = training(lr=0.1, schedule="cosine", min_lr=0.01)
    whole, half = by_batch(of, 3, 4), by_batch(of, 3, 4, lr=0.05)
    assert half == pytest.approx([rate / 2 for rate in whole])


@pytest.mark.parametrize("num_steps", [10, 37])
def test_one_cycle_equals_torchs_step_by_step(num_steps: int) -> None:
    """torch's phases end one step early, at 30 % of its steps - 1 and at its last step; ours at 30 % and at the end."""
    rise = (0.3 * num_steps + 1) / (num_steps + 1)
    scheduler = OneCycleLR(sgd(), 0.1, total_steps=num_steps + 1, pct_start=rise, cycle_momentum=False)
    at = learning_rate(training(lr=0.1, schedule="one_cycle"), 5)
    found = [at(5 * done / num_steps) for done in range(num_steps + 1)]
    assert found == pytest.approx(rates(scheduler, num_steps + 1), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "schedule"), [(lambda of: StepLR(of, 10), "step"), (lambda of: CosineAnnealingLR(of, 30), "cosine")]
)
def test_warmup_equals_torchs_linear_scheduler_chained_with_the_schedule(
    make: Callable[[torch.optim.SGD], LRScheduler], schedule: str
) -> None:
    optimizer = sgd()
    chained = ChainedScheduler([make(optimizer), LinearLR(optimizer, start_factor=0.01, total_iters=12)])
    of = training(lr=0.1, schedule=schedule, warmup_epochs=12.0, decay_epochs=10)
    at = learning_rate(of, 30)
    assert [at(float(epoch)) for epoch in range(30)] == pytest.approx(rates(chained, 30), rel=1e-9)


def test_one_cycle_has_its_own_warmup() -> None:
    of = training(schedule="one_cycle", warmup_epochs=5.0)
    assert [warmup(epochs_done, of) for epochs_done in (0.0, 3.0, 9.0)] == [1.0] * 3


@pytest.mark.parametrize(
    ("keys", "peak"),
    [({}, 0.0), ({"warmup_epochs": 3.0, "schedule": "constant"}, 3.0), ({"schedule": "one_cycle"}, 6.0)],
)
def test_learning_rate_is_highest_at_the_peak(keys: dict[str, Any], peak: float) -> None:
    of = training(**keys)
    at = learning_rate(of, 20)
    assert peak_epoch(of, 20) == peak
    assert at(peak) == pytest.approx(0.2) == pytest.approx(max(at(step / 10) for step in range(201)))


def test_cosine_goes_from_one_to_zero() -> None:
    assert cosine(0, 30) == 1.0
    assert cosine(15, 30) == pytest.approx(0.5)
    assert cosine(30, 30) == 0.0


def test_constant_is_one() -> None:
    assert [constant(epochs_done, 10) for epochs_done in (0, 0.5, 10)] == [1.0] * 3


def test_schedules_table_is_complete() -> None:
    assert dict(SCHEDULES) == {
        "step": step,
        "cosine": cosine,
        "linear": linear,
        "one_cycle": one_cycle,
        "constant": constant,
    }


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
    at = learning_rate(training(schedule=schedule), 100)
    assert [at(epochs_done) for epochs_done in (0.0, 12.5, 61.0)] == [
        0.2 * SCHEDULES[schedule](epochs_done, 100, training()) for epochs_done in (0.0, 12.5, 61.0)
    ]


def test_swa_learning_rate_is_constant_from_its_start() -> None:
    at = learning_rate(training(schedule="cosine"), 100, SwaSettings(start=0.75, lr=0.03))
    plain = learning_rate(training(schedule="cosine"), 100)
    steps = [batch / 8 for batch in range(800)]
    assert [at(done) for done in steps if done < 75] == [plain(done) for done in steps if done < 75]
    assert {at(done) for done in steps if done >= 75} == {0.03}


@pytest.mark.parametrize("swa", [None, SwaSettings(start=0.5)])
def test_swa_without_a_learning_rate_keeps_the_schedule(swa: SwaSettings | None) -> None:
    at, plain = learning_rate(training(schedule="cosine"), 10, swa), learning_rate(training(schedule="cosine"), 10)
    assert [at(done / 4) for done in range(41)] == [plain(done / 4) for done in range(41)]


@pytest.mark.parametrize(("start", "epochs"), [(0.75, 100), (0.29, 100), (0.07, 100), (0.14, 50), (0.0, 3), (0.3, 7)])
def test_swa_rate_begins_with_the_first_whole_epoch(start: float, epochs: int) -> None:
    """In floating point, 0.07 * 100 is 7.000000000000001; averaging must still begin with the step at epoch 7."""
    at = learning_rate(training(schedule="constant"), epochs, SwaSettings(start=start, lr=0.03))
    first = next(epoch for epoch in range(epochs + 1) if at(float(epoch)) == 0.03)
    assert first == math.ceil(Fraction(str(start)) * epochs)
