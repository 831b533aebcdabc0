"""Exchange rules of several peers on small networks, and an exchange among all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from network_makers import seeded_small_net
from space_makers import make_settings
from torch import Tensor, nn

from graftpop.exchange.build import make_rule
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import take_snapshot
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

NOTHING = torch.empty(0, dtype=torch.int64)


def make_rules(
    name: str,
    options: dict[str, Any],
    num_peers: int = 4,
    *,
    same_start: bool = False,
    make_network: Callable[[int], nn.Module] = seeded_small_net,
) -> list[ExchangeRule]:
    """Return the rule of each peer, with weights of its own or the same as the others'."""
    rules = []
    for peer in range(num_peers):
        state = FlatState(make_network(0 if same_start else peer))
        context = ExchangeContext(peer, state, [], site_measures(state, [], None), make_settings({name: options}))
        rule = make_rule(context)
        assert rule is not None
        rules.append(rule)
    return rules


def exchange_all(rules: Sequence[ExchangeRule]) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """Let all peers exchange with all others; return the weights (K, N) before and after, and the figures."""
    before = torch.stack([rule.weights.clone() for rule in rules])
    taken = [take_snapshot(rule.context.state, rule.context.peer, NOTHING, NOTHING, rule.publish()) for rule in rules]
    snapshots = [Snapshot(**{**vars(one), "weights": one.weights.copy()}) for one in taken]
    figures = [dict(rule.receive([one for one in snapshots if one.peer != rule.context.peer]) or {}) for rule in rules]
    return before, torch.stack([rule.weights.clone() for rule in rules]), figures


def parameter_mask(rule: ExchangeRule) -> Tensor:
    """Return which places of the flat weights are parameters, bool (N,)."""
    mask = torch.zeros_like(rule.weights, dtype=torch.bool)
    for entry in rule.context.state.entries:
        mask[entry.offset : entry.offset + entry.numel] = entry.is_parameter
    return mask
