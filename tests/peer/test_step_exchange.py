"""Exchanges after optimizer steps, in populations of real peers."""

from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from torch import Tensor

from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.settings import Settings
from graftpop.training.schedules import one_cycle

NUM_BATCHES = 3
"""Batches per epoch of the settings."""


def run(settings: Settings) -> tuple[list[dict[str, Tensor]], list[list[tuple[int, str, float]]]]:
    """Return the state of each peer after the last round, and peer, name and value of each round's figures."""
    population = Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)
    rounds = [population.step() for _ in range(settings.num_rounds)]
    figures = [
        [(row["peer"], row["diagnostic"], row["value"]) for row in done.diagnostics if row["other"] is None]
        for done in rounds
    ]
    return [tensors_from_bytes(state) for _, state in population.save()], figures


@pytest.mark.parametrize("every", [1, 2, 4, 6])
def test_rule_acts_after_every_nth_step_over_all_epochs(every: int) -> None:
    settings = make_settings(
        exchange="python:user_parts.Pull", population={"num_peers": 2, "exchange_every": every}, training={"epochs": 2}
    )
    states, figures = run(settings)
    assert [int(state["exchange/count"]) for state in states] == [2 * NUM_BATCHES // every] * 2
    first = range(1, NUM_BATCHES // every + 1)
    found = [value for peer, name, value in figures[0] if (peer, name) == (0, "exchanges")]
    assert found == ([sum(first) / len(first)] if first else [])


@pytest.mark.parametrize(("every", "exchanges"), [(1, 4), (2, 2), (3, 1)])
def test_steps_of_accumulated_batches_are_counted_once(every: int, exchanges: int) -> None:
    """Three batches in groups of two are two steps per epoch."""
    settings = make_settings(
        exchange="python:user_parts.Pull",
        population={"num_peers": 2, "exchange_every": every},
        training={"epochs": 2, "accumulate": 2},
    )
    states, _ = run(settings)
    assert [int(state["exchange/count"]) for state in states] == [exchanges] * 2


@pytest.mark.parametrize("training", [{"schedule": "constant", "warmup_epochs": 1.0}, {"schedule": "one_cycle"}])
def test_pull_of_papa_grows_with_the_learning_rate_up_to_its_rate(training: dict[str, Any]) -> None:
    settings = make_settings(
        papa={"rate": 0.5}, population={"num_peers": 2, "exchange_every": 10}, training={"epochs": 10, **training}
    )
    _, figures = run(settings)
    shares = [value for of_round in figures for peer, name, value in of_round if (peer, name) == (0, "papa_share")]
    assert len(shares) == 3  # after steps 10, 20 and 30
    if training["schedule"] == "constant":
        assert shares == pytest.approx([0.5] * 3)
    else:
        ratios = [one_cycle(steps / NUM_BATCHES, 10) for steps in (9, 19, 29)]
        assert shares == pytest.approx([0.5 * ratio for ratio in ratios])


def test_full_pull_after_the_last_step_leaves_equal_peers() -> None:
    settings = make_settings(
        papa={"rate": 1 - 1e-12},
        training={"epochs": 2, "schedule": "constant"},
        population={"num_peers": 3, "exchange_every": 2 * NUM_BATCHES},
    )
    states, _ = run(settings)
    for other in states[1:]:
        for name, tensor in states[0].items():
            if name.startswith("network/") and tensor.is_floating_point():
                assert torch.allclose(tensor, other[name], atol=1e-3), name


def test_no_exchange_before_the_first_interval_ends_is_no_exchange() -> None:
    plain, _ = run(make_settings(population={"num_peers": 2}))
    rare, _ = run(make_settings(papa={}, population={"num_peers": 2, "exchange_every": 100}))
    for one, other in zip(plain, rare, strict=True):
        assert all(tensor.equal(other[name]) for name, tensor in one.items())


def test_mutual_learning_and_exchange_in_steps_run_together() -> None:
    states, _ = run(make_settings(mutual={}, papa={}, population={"num_peers": 2, "exchange_every": 2}))
    alone, _ = run(make_settings(mutual={}, population={"num_peers": 2}))
    assert any(not tensor.equal(alone[0][name]) for name, tensor in states[0].items())
