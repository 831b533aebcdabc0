"""WASH and SPARTA against their formulas."""

import pytest
import torch
from rule_makers import exchange_all, make_rules, parameter_mask
from torch import nn


def test_sparta_averages_the_same_places_of_all_peers_and_leaves_the_others() -> None:
    rules = make_rules("sparta", {"share": 0.3})
    before, after, figures = exchange_all(rules)
    changed = (before != after).any(0)
    assert torch.allclose(after[:, changed], before[:, changed].mean(0).expand(4, -1), atol=1e-6)
    assert not changed[~parameter_mask(rules[0])].any()
    shares = {one["sparta_share"] for one in figures}
    assert len(shares) == 1
    assert shares.pop() == pytest.approx(0.3, abs=0.1)


def test_sparta_of_every_place_is_the_mean() -> None:
    rules = make_rules("sparta", {"share": 1.0})
    before, after, _ = exchange_all(rules)
    mask = parameter_mask(rules[0])
    assert torch.allclose(after[:, mask], before[:, mask].mean(0).expand(4, -1), atol=1e-6)


def test_wash_keeps_the_values_of_every_place_as_a_set() -> None:
    before, after, figures = exchange_all(make_rules("wash", {"share": 1.0}))
    assert torch.equal(before.sort(0).values, after.sort(0).values)
    assert not torch.equal(before, after)
    assert len({one["wash_share"] for one in figures}) == 1


def test_wash_shuffles_less_with_depth_and_never_the_last_layer() -> None:
    rules = make_rules("wash", {"share": 0.8})
    state = rules[0].context.state
    before, after, _ = exchange_all(rules)
    moved = {
        entry.name: float((before != after)[:, entry.offset : entry.offset + entry.numel].any(0).float().mean())
        for entry in state.entries
        if entry.is_parameter and len(state.shape_of(entry.name)) > 1
    }
    shares = [*moved.values()]
    assert shares[0] > 0.5
    assert shares[0] > shares[-1]
    assert shares[-1] == 0
    last = state.entries[-1]
    assert torch.equal(before[:, last.offset :], after[:, last.offset :])


def test_wash_shuffles_the_only_layer() -> None:
    def linear(peer: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(peer)
            return nn.Linear(64, 10)

    rules = make_rules("wash", {"share": 0.3}, make_network=linear)
    before, after, figures = exchange_all(rules)
    assert torch.equal(before.sort(0).values, after.sort(0).values)
    assert figures[0]["wash_share"] == pytest.approx(0.3, abs=0.1)


def test_wash_permutes_each_place_by_itself() -> None:
    rules = make_rules("wash", {"share": 1.0})
    before, after, _ = exchange_all(rules)
    entry = next(entry for entry in rules[0].context.state.entries if entry.is_parameter and entry.numel > 50)
    place = slice(entry.offset, entry.offset + entry.numel)
    givers = (after[:, None, place] == before[None, :, place]).float().argmax(1)
    assert len({tuple(column) for column in givers.T.tolist()}) > 10


@pytest.mark.parametrize("name", ["wash", "sparta"])
def test_places_are_drawn_anew_at_each_step(name: str) -> None:
    first, second = (make_rules(name, {"share": 0.3}, 2) for _ in range(2))
    for rule in second:
        object.__setattr__(rule.context, "num_steps", lambda: 7)
    changed = [(before != after).any(0) for before, after, _ in map(exchange_all, (first, second))]
    assert not torch.equal(*changed)
