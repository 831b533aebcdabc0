"""Builds the exchange rule of a peer from its settings."""

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graftpop.errors import SpaceError
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import take_snapshot
from graftpop.exchange.user_parts import named_user_parts, user_parts
from graftpop.settings import Settings
from graftpop.sites import Site
from graftpop.training.flat_state import FlatState

__all__ = ["check_user_parts", "make_rule", "published_by"]


def make_rule(context: ExchangeContext) -> ExchangeRule | None:
    """Return the exchange rule that the settings name; None if the peers exchange no weights.

    Args:
        context: the peer; its `user_parts` are the parts that were given as objects.

    Raises:
        SpaceError: user code cannot be imported.
    """
    settings = context.settings
    if settings.exchange_rule is None:
        return None
    parts = user_parts(settings, context.user_parts)
    context = replace(context, user_parts=parts)
    if settings.exchange is not None:
        rule: ExchangeRule = parts["exchange"](context)
        return rule
    module, _, name = settings.exchange_rule.rpartition(".")
    kind: type[ExchangeRule] = getattr(importlib.import_module(module), name)
    return kind(context)


def check_user_parts(
    settings: Settings, network: nn.Module, sites: Sequence[Site], given: Mapping[str, Callable[..., Any]]
) -> None:
    """Run one exchange between two copies of a network if the rule has user-defined parts.

    Args:
        settings: the population's settings.
        network: network of a peer; not changed.
        sites: sites of the network.
        given: user-defined parts that were given as objects, by key.

    Raises:
        SpaceError: a user-defined part cannot be imported, fails, or returns anything unsuitable.
    """
    if not named_user_parts(settings):
        return
    rules = []
    for peer in range(2):
        state = FlatState(copy.deepcopy(network))
        state.buffer.mul_(1 + 0.1 * peer)
        measures = site_measures(state, sites, settings.graft)
        rule = make_rule(ExchangeContext(peer, state, sites, measures, settings, user_parts=given))
        assert rule is not None
        rule.begin()
        rules.append(rule)
    receiver, donor = rules
    no_prediction = torch.empty(0, dtype=torch.int64)
    receiver.receive(
        [take_snapshot(donor.context.state, 1, donor.context.measures.entropies, no_prediction, published_by(donor))]
    )
    receiver.load_state_dict(receiver.state_dict())


def published_by(rule: ExchangeRule | None) -> Mapping[str, Tensor]:
    """Return the tensors that a peer's rule publishes; none without a rule.

    Raises:
        SpaceError: one has several values, whose order `align` would not permute.
    """
    published = {} if rule is None else rule.publish()
    ordered = [name for name, tensor in published.items() if tensor.numel() > 1]
    if rule is not None and rule.context.settings.align is not None and ordered:
        raise SpaceError(
            f"align: permutes the donors' weights alone, so a rule must publish nothing but single numbers, got "
            f"'{ordered[0]}' of '{rule.context.settings.exchange}'; remove align"
        )
    return published
