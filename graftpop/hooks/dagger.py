"""Gates from weights: a small network per layer maps a unit's weights to its gate, and is trained with the task.

    gate_u = sigmoid(V2 ReLU(V1 w_u + a) + b)        of unit u with the weights w_u, divided by the layer's deviation
    minimize  task's loss of the gated network + FLOPS_WEIGHT * sum over layers of (share of the FLOPs * mean gate)

over the small networks; the weights stay as they are.

References:
    DAFG, data-agnostic filter gating, arXiv:2010.15041. We know only the abstract: an auxiliary network maps pretrained
    weights to gates of filters, trained with the task's loss and a regularizer of FLOPs. Everything else is our
    reading.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from graftpop.hooks.unit_outputs import per_unit, unit_outputs
from graftpop.models.flops import flops_by_weight
from graftpop.seeds import seeded
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

__all__ = ["dagger"]

WIDTH: Final = 16
OPEN: Final = 2.0  # initial b: gates begin at sigmoid(2) = 0.88
FLOPS_WEIGHT: Final = 1.0
LEARNING_RATE: Final = 0.01
MOST_STEPS: Final = 50


def dagger(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[Tensor]:
    """Return the gate of each unit, in (0, 1), after one pass over the training images, or MOST_STEPS batches of them.

    Args:
        learner: the learner that trains the network.
        filters: units, site by site, each with an output of its own.
        seed: seeds the small networks and the batches.
    """
    features = [_features(site.weight) for site in filters]
    with seeded(seed, features[0].device):
        networks = nn.ModuleList(_gate_network(of_site.shape[1]).to(of_site.device) for of_site in features)
    shares = _shares_of_flops(learner, filters, seed)
    optimizer = torch.optim.Adam(networks.parameters(), lr=LEARNING_RATE)
    gates: list[Tensor] = []

    def gated(index: int, output_BU: Tensor) -> Tensor:
        return output_BU * per_unit(gates[index], output_BU)

    with unit_outputs(learner, filters, gated):
        losses = learner.losses(MOST_STEPS, seed)
        while True:
            gates[:] = [_gates(network, of_site) for network, of_site in zip(networks, features, strict=True)]
            if (loss := next(losses, None)) is None:
                break
            total = loss + FLOPS_WEIGHT * sum(share * gate.mean() for share, gate in zip(shares, gates, strict=True))
            parameters = list(networks.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
    return [gate.detach() for gate in gates]


def _shares_of_flops(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[float]:
    """Return the share of each layer in the FLOPs of all sites; equal shares where none are known."""
    inputs, _ = learner.sample(1, seed)
    by_weight = flops_by_weight(learner.network, tuple(inputs.shape[1:]))
    flops = [by_weight.get(site.site.weight.tensor, 0) for site in filters]
    total = sum(flops)
    return [of_site / total if total else 1 / len(flops) for of_site in flops]


def _features(weight: Tensor) -> Tensor:
    """Return a layer's weights as rows without a graph, (U, K), with deviation 1."""
    rows_UK = weight.detach().float().flatten(1)
    return rows_UK / rows_UK.std().clamp_min(1e-12) if rows_UK.numel() > 1 else rows_UK


def _gate_network(num_weights: int) -> nn.Module:
    last = nn.Linear(WIDTH, 1)
    nn.init.constant_(last.bias, OPEN)
    return nn.Sequential(nn.Linear(num_weights, WIDTH), nn.ReLU(), last)


def _gates(network: nn.Module, features_UK: Tensor) -> Tensor:
    gates_U: Tensor = network(features_UK)[:, 0].sigmoid()
    return gates_U
