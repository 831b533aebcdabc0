"""WASH: a few places of the peers' weights are shuffled among the peers.

    p_l = share * (1 - l / (L - 1))    for the places of layer l of L
    with probability p_l, the values of a place are permuted at random among the peers

The set of the peers' values at a place does not change, nor does their mean, while the peers stay in one basin. A layer
is a weight with two axes or more and the parameters that follow it; parameters before the first such weight belong to
its layer. Only parameters are shuffled, and those of the last layer never, unless it is the only one, whose p_l is
`share`.

References:
    Fournier et al., WASH: Train your Ensemble with Communication-Efficient Weight Shuffling, then Average,
    arXiv:2405.17517; the rule comes from a third party's copy of its code.
"""

from collections.abc import Mapping, Sequence

import torch

from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import weights_by_peer
from graftpop.seeds import derive
from graftpop.training.flat_state import Entry
from graftpop.training.snapshot import Snapshot

__all__ = ["Wash"]


class Wash(ExchangeRule):
    """One peer's part in the shuffle.

    Args:
        context: the peer, its network and its settings.
    """

    def __init__(self, context: ExchangeContext) -> None:
        super().__init__(context)
        layer, layers = -1, list[tuple[Entry, int]]()
        for entry in context.state.entries:
            if entry.is_parameter:
                layer += len(context.state.shape_of(entry.name)) > 1
                layers.append((entry, max(layer, 0)))
        self._layers, self._last = layers, max(layer, 1)

    def receive(self, donors: Sequence[Snapshot]) -> Mapping[str, float]:
        """Shuffle the places of this exchange, and return `wash_share`, their share of the parameters."""
        context, settings = self.context, self.context.settings.wash
        assert settings is not None
        by_peer = weights_by_peer(context.peer, self.weights, donors)
        weights, own = torch.stack([*by_peer.values()]), list(by_peer).index(context.peer)
        generator = torch.Generator().manual_seed(derive(context.settings.seed, "wash", context.num_steps()))
        drawn = []
        for entry, layer in self._layers:
            share = settings.share * (1 - layer / self._last)
            places = (torch.rand(entry.numel, generator=generator) < share).nonzero().flatten()
            givers = torch.rand(len(weights), len(places), generator=generator).argsort(0)[own]
            drawn.append(torch.stack([places + entry.offset, givers]))
        places, givers = torch.cat(drawn, 1).to(self.weights.device)  # one copy for all entries
        self.weights[places] = weights[givers, places]
        return {"wash_share": len(places) / sum(entry.numel for entry, _ in self._layers)}
