"""PAPA, a population averaged by little steps: every peer moves a small share of the way to the mean of the peers.

    m   = mean of the weights of the peer and its donors
    w  <- (1 - e) * w + e * m,        e = 1 - (1 - rate * lr_t / lr_0) ** (k / 10)

after every k optimizer steps. At k = 10, e = rate * lr_t / lr_0. The exponent gives other intervals the same strength:
ten steps later, the deviation from the mean has shrunk by the same factor. All floating-point tensors move, the
statistics of BatchNorm too.

References:
    Jolicoeur-Martineau, Gervais, Fatras, Zhang, Lacoste-Julien, PopulAtion Parameter Averaging (PAPA), 2023,
    arXiv:2304.03094, and the released code, SamsungSAILMontreal/PAPA, main.py: every 10 steps, rate 0.01.
"""

from collections.abc import Mapping, Sequence

import torch

from graftpop.exchange.rule import ExchangeRule
from graftpop.exchange.snapshots import weights_by_peer
from graftpop.training.snapshot import Snapshot

__all__ = ["Papa"]

STEPS = 10
"""Optimizer steps to which the rate refers."""


class Papa(ExchangeRule):
    """The pull of one peer towards the mean of itself and its donors."""

    def receive(self, donors: Sequence[Snapshot]) -> Mapping[str, float]:
        """Move the weights, and return `papa_share`, the formula's e, and `papa_distance`, the L2 norm of w - m before.

        The mean is taken over all peers in the order of their indices, so peers that share donors share it to the bit.
        """
        settings = self.context.settings.papa
        assert settings is not None
        mean = torch.stack([*weights_by_peer(self.context.peer, self.weights, donors).values()]).mean(0)
        rate = min(1.0, settings.rate * self.context.lr_ratio())  # swa.lr may be above the initial learning rate
        share = 1 - (1 - rate) ** (self.context.steps_between / STEPS)
        distance = torch.linalg.vector_norm(self.weights - mean, dtype=torch.float64).item()
        self.weights.lerp_(mean, share)
        return {"papa_share": share, "papa_distance": distance}
