"""SPARTA, sparse parameter averaging: a few places of all peers' weights become their mean.

    mask   ~ Bernoulli(share) for each place, the same for all peers
    w_mask <- mean of the peers' w_mask

Only parameters are averaged. Over an exchange the expected variance among the peers shrinks by the factor 1 - share.

References:
    The public code of exo-explore/gym, `sparta`: share 0.005 after every optimizer step.
"""

from collections.abc import Mapping, Sequence

import torch

from graftpop.exchange.rule import ExchangeRule
from graftpop.exchange.snapshots import weights_by_peer
from graftpop.seeds import derive
from graftpop.training.snapshot import Snapshot

__all__ = ["Sparta"]


class Sparta(ExchangeRule):
    """One peer's part in the averaging of random places."""

    def receive(self, donors: Sequence[Snapshot]) -> Mapping[str, float]:
        """Average the places of this exchange, and return `sparta_share`, their share of the parameters."""
        context, settings = self.context, self.context.settings.sparta
        assert settings is not None
        weights = torch.stack([*weights_by_peer(context.peer, self.weights, donors).values()])
        generator = torch.Generator().manual_seed(derive(context.settings.seed, "sparta", context.num_steps()))
        parameters = [entry for entry in context.state.entries if entry.is_parameter]
        drawn = [
            (torch.rand(entry.numel, generator=generator) < settings.share).nonzero().flatten() + entry.offset
            for entry in parameters
        ]
        places = torch.cat(drawn).to(self.weights.device)  # one copy for all entries
        for of_entry in places.split([*map(len, drawn)]):
            self.weights[of_entry] = weights[:, of_entry].mean(0)
        return {"sparta_share": len(places) / sum(entry.numel for entry in parameters)}
