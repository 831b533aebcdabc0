"""Contracts of all exchange rules, on networks of several kinds; no test depends on a rule's name."""

import pytest
import torch
from network_makers import copied, same_bits, seeded_small_net
from space_makers import RULES, make_settings

from graftpop.exchange.build import make_rule
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import take_snapshot
from graftpop.settings import Settings
from graftpop.sites import find_sites
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

NOTHING = torch.empty(0, dtype=torch.int64)


def rule_of(name: str, peer: int, seed: int) -> tuple[ExchangeRule, torch.nn.Module]:
    network = seeded_small_net(seed)
    settings = make_settings({name: {}})
    state, sites = FlatState(network), find_sites(network, (3, 8, 8), "network", "all")
    rule = make_rule(ExchangeContext(peer, state, sites, site_measures(state, sites, settings.graft), settings))
    assert rule is not None
    return rule, network


def snapshot_of(rule: ExchangeRule) -> Snapshot:
    context = rule.context
    taken = take_snapshot(context.state, context.peer, context.measures.entropies, NOTHING, rule.publish())
    return Snapshot(**{**vars(taken), "weights": taken.weights.copy(), "integers": taken.integers.copy()})


@pytest.mark.parametrize("name", RULES)
def test_equal_peers_do_not_move(name: str) -> None:
    rule, _ = rule_of(name, 0, seed=1)
    before = rule.weights.clone()
    rule.receive([snapshot_of(rule_of(name, peer, seed=1)[0]) for peer in (1, 2)])
    assert torch.allclose(rule.weights, before, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_unequal_donors_move_weights_and_leave_snapshots_and_integers(name: str) -> None:
    rule, network = rule_of(name, 0, seed=1)
    before = copied(network.state_dict())
    donor = snapshot_of(rule_of(name, 1, seed=2)[0])
    theirs = donor.weights.copy()
    rule.receive([donor])
    after = network.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())
    assert all(value.isfinite().all() for value in after.values())
    integers = [key for key, value in before.items() if not value.is_floating_point()]
    assert same_bits({key: after[key] for key in integers}, {key: before[key] for key in integers})
    assert (donor.weights == theirs).all()


@pytest.mark.parametrize("name", RULES)
def test_rule_works_on_weights_alone_as_after_optimizer_steps(name: str) -> None:
    with_all, _ = rule_of(name, 0, seed=1)
    donor = snapshot_of(rule_of(name, 1, seed=2)[0])
    with_all.receive([donor])
    alone, _ = rule_of(name, 0, seed=1)
    empty = torch.empty(0).numpy()
    alone.receive([Snapshot(1, donor.weights, NOTHING.numpy(), empty.astype("float64"), NOTHING.numpy())])
    assert alone.weights.equal(with_all.weights)


def test_settings_without_a_rule_make_none() -> None:
    network = seeded_small_net(0)
    state = FlatState(network)
    for settings in (make_settings(), make_settings(graft={"source": "noise"})):
        assert isinstance(settings, Settings)
        assert make_rule(ExchangeContext(0, state, [], site_measures(state, [], None), settings)) is None
