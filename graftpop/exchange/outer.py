"""DiLoCo: an outer optimizer, SGD with Nesterov momentum, whose gradient is the peers' mean change.

    g     = theta - mean of the peers' w
    v    <- momentum * v + g
    theta <- theta - lr * (g + momentum * v)        w <- theta for every peer

theta starts at the common weights: the initial ones, or those after the peers' common epochs. theta and v cover the
parameters; other tensors, such as the statistics of BatchNorm, become the mean of the peers' tensors. The inner
optimizers keep their state. With lr 1 and momentum 0 this is averaging.

References:
    Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, arXiv:2311.08105: lr 0.7,
    momentum 0.9; meta-pytorch/torchft, local_sgd.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import weights_by_peer
from graftpop.training.snapshot import Snapshot

__all__ = ["Outer"]


class Outer(ExchangeRule):
    """One peer's copy of the outer optimizer; all copies are equal.

    Args:
        context: the peer, with the initial weights.
    """

    name = "outer"

    def __init__(self, context: ExchangeContext) -> None:
        super().__init__(context)
        self._theta, self._velocity = self.weights.clone(), torch.zeros_like(self.weights)
        self._is_parameter = torch.zeros_like(self.weights, dtype=torch.bool)
        for entry in context.state.entries:
            self._is_parameter[entry.offset : entry.offset + entry.numel] = entry.is_parameter

    def begin(self) -> None:
        """Start theta at the weights that all peers share."""
        self._theta.copy_(self.weights)

    def receive(self, donors: Sequence[Snapshot]) -> Mapping[str, float]:
        """Move to the new theta, and return `outer_gradient`, the L2 norm of g over the parameters."""
        settings = self.context.settings.outer
        assert settings is not None
        mean = torch.stack([*weights_by_peer(self.context.peer, self.weights, donors).values()]).mean(0)
        gradient = (self._theta - mean).mul_(self._is_parameter)
        self._velocity.mul_(settings.momentum).add_(gradient)
        self._theta.sub_(gradient + settings.momentum * self._velocity, alpha=settings.lr)
        self.weights.copy_(torch.where(self._is_parameter, self._theta, mean))
        return {"outer_gradient": torch.linalg.vector_norm(gradient, dtype=torch.float64).item()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return theta and v."""
        return {"theta": self._theta, "velocity": self._velocity}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self._theta.copy_(tensors["theta"])
        self._velocity.copy_(tensors["velocity"])
