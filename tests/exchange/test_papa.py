"""PAPA against its formula."""

from typing import Any

import pytest
import torch
from network_makers import seeded_small_net
from space_makers import make_settings
from torch import Tensor

from graftpop.exchange.build import make_rule
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.papa import Papa
from graftpop.exchange.rule import ExchangeContext
from graftpop.exchange.snapshots import take_snapshot
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

NOTHING = torch.empty(0, dtype=torch.int64)


def papa(peer: int, **context: Any) -> Papa:
    """Return the rule of a peer with weights of its own, at a rate of 0.2 per 10 steps."""
    settings = make_settings(papa={"rate": 0.2}, graft=None)
    state = FlatState(seeded_small_net(peer))
    rule = make_rule(ExchangeContext(peer, state, [], site_measures(state, [], None), settings, **context))
    assert isinstance(rule, Papa)
    return rule


def exchange(rules: list[Papa]) -> tuple[list[Tensor], list[Tensor], list[dict[str, float]]]:
    """Let all peers exchange with all others; return the weights before and after, and the figures."""
    before = [rule.weights.double().clone() for rule in rules]
    snapshots = [
        Snapshot(**{**vars(taken), "weights": taken.weights.copy()})
        for taken in (take_snapshot(rule.context.state, rule.context.peer, NOTHING, NOTHING, {}) for rule in rules)
    ]
    figures = [
        dict(rule.receive([snapshot for snapshot in snapshots if snapshot.peer != rule.context.peer])) for rule in rules
    ]
    return before, [rule.weights.double() for rule in rules], figures


@pytest.mark.parametrize(("steps", "lr_ratio"), [(10, 1.0), (1, 1.0), (25, 1.0), (10, 0.3), (7, 0.01)])
@pytest.mark.parametrize("num_peers", [2, 4])
def test_mean_stays_and_deviations_shrink_by_the_share(num_peers: int, steps: int, lr_ratio: float) -> None:
    rules = [papa(peer, steps_between=steps, lr_ratio=lambda: lr_ratio) for peer in range(num_peers)]
    before, after, figures = exchange(rules)
    mean = torch.stack(before).mean(0)
    share = 1 - (1 - 0.2 * lr_ratio) ** (steps / 10)
    assert torch.allclose(torch.stack(after).mean(0), mean, atol=1e-6)
    for own, moved, found in zip(before, after, figures, strict=True):
        assert torch.allclose(moved - mean, (1 - share) * (own - mean), atol=1e-6)
        assert found["papa_share"] == pytest.approx(share)
        assert found["papa_distance"] == pytest.approx(float((own - mean).norm()), rel=1e-5)


def test_learning_rate_far_above_the_initial_one_pulls_to_the_mean() -> None:
    rules = [papa(peer, steps_between=7, lr_ratio=lambda: 6.0) for peer in range(2)]  # 0.2 * 6 is above 1
    before, after, _ = exchange(rules)
    assert all(torch.allclose(moved, torch.stack(before).mean(0), atol=1e-6) for moved in after)


def test_at_ten_steps_the_share_is_the_rate() -> None:
    _, _, figures = exchange([papa(peer, steps_between=10) for peer in range(2)])
    assert [found["papa_share"] for found in figures] == pytest.approx([0.2, 0.2])


def test_two_intervals_of_five_steps_pull_as_far_as_one_of_ten() -> None:
    often, once = ([papa(peer, steps_between=steps) for peer in range(3)] for steps in (5, 10))
    exchange(often)
    _, twice, _ = exchange(often)
    _, expected, _ = exchange(once)
    for got, wanted in zip(twice, expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)


def test_its_topology_is_all_unless_another_is_chosen() -> None:
    assert make_settings(papa={}).topology == "all"
    assert make_settings(papa={}, population={"topology": "ring"}).topology == "ring"
    assert make_settings(graft={}).topology == "ring"
