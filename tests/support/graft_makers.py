"""Grafting between networks outside of a population."""

from collections.abc import Sequence
from typing import Any

import torch
from space_makers import make_settings
from torch import Tensor, nn

from graftpop.exchange.grafting import Grafting, site_measures
from graftpop.exchange.rule import ExchangeContext
from graftpop.exchange.snapshots import take_snapshot
from graftpop.sites import Site, find_sites
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

NOTHING = torch.empty(0, dtype=torch.int64)


def conv_bn_sites(network: nn.Module, side: int = 8) -> list[Site]:
    return find_sites(network, (3, side, side), "network", "conv_bn")


def make_grafting(state: FlatState, sites: Sequence[Site], **graft: Any) -> Grafting:
    """Return the grafting of peer 0, with its sites measured now."""
    settings = make_settings(graft=graft)
    return Grafting(ExchangeContext(0, state, sites, site_measures(state, sites, settings.graft), settings))


def published(grafting: Grafting, peer: int = 1, predicted: Tensor = NOTHING) -> Snapshot:
    """Return a snapshot of a network, measured now; its arrays share the network's memory."""
    context = grafting.context
    context.measures.update()
    return take_snapshot(context.state, peer, context.measures.entropies, predicted, grafting.publish())


def snapshot_of(state: FlatState, sites: Sequence[Site], peer: int = 1, predicted: Tensor = NOTHING) -> Snapshot:
    """Return a snapshot of a network that shares the network's memory, with the default entropies."""
    return take_snapshot(state, peer, site_measures(state, sites, None).entropies, predicted, {})


def alpha_of(grafting: Grafting, donor: Snapshot) -> Tensor:
    """Return the alphas of a graft, with the receiver measured now."""
    grafting.context.measures.update()
    return grafting.alpha(torch.from_numpy(donor.entropies), donor.weights_on(grafting.weights.device))


def graft_(grafting: Grafting, donor: Snapshot) -> Tensor:
    """Graft a snapshot into a network, and return the alphas."""
    alpha = alpha_of(grafting, donor)
    grafting.receive([donor])
    return alpha
