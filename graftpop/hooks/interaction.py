"""Units as players of a game: their values, and how much those of a layer interact.

The players are the units of one layer. The value of a coalition is the mean log-likelihood of the labels of some
training images, in evaluation mode, with all other units of the layer at zero.

References:
    Tang, Wei, Li, SNPFI, arXiv:2307.00758. We know only the abstract and fragments: see `ops.games`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from graftpop.hooks.unit_outputs import per_unit, unit_outputs
from graftpop.ops.games import Value, mean_interaction, shapley
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

__all__ = ["interaction", "utilization"]

NUM_PERMUTATIONS: Final = 4
NUM_PAIRS: Final = 8
COALITIONS_OF_A_PAIR: Final = 4
FEWEST_IMAGES: Final = 16
PASSES_OF_AN_EPOCH: Final = 3  # the backward pass costs two forward passes


def interaction(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[Tensor]:
    """Return the Shapley value of each unit in the game of its layer.

    It is exact in layers of few units, and otherwise the mean over NUM_PERMUTATIONS orders. The number of images is
    chosen so that all values cost no more than an epoch, but at least FEWEST_IMAGES.

    Args:
        learner: the learner that trains the network; its task has class scores.
        filters: units, site by site, each with an output of its own.
        seed: seeds images and orders.
    """
    generator = torch.Generator().manual_seed(seed)
    num_coalitions = sum(2 + NUM_PERMUTATIONS * (site.num_filters - 1) for site in filters)
    return [
        shapley(value, site.num_filters, NUM_PERMUTATIONS, generator).float()
        for site, value in zip(filters, _values(learner, filters, num_coalitions, seed), strict=True)
    ]


def utilization(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[float]:
    """Return how much each layer needs its units together: (N - 1) * mean interaction of two of its N units.

    If N units are useful only together, the mean interaction of two is 1 / (N - 1) of their joint value, so the result
    does not depend on the width. A layer of one unit has 0. Arguments as for `interaction`.
    """
    generator = torch.Generator().manual_seed(seed)
    num_coalitions = COALITIONS_OF_A_PAIR * NUM_PAIRS * len(filters)
    return [
        float(mean_interaction(value, site.num_filters, NUM_PAIRS, generator)) * (site.num_filters - 1)
        if site.num_filters > 1
        else 0.0
        for site, value in zip(filters, _values(learner, filters, num_coalitions, seed), strict=True)
    ]


def _values(learner: Learner, filters: Sequence[SiteFilters], num_coalitions: int, seed: int) -> Iterator[Value]:
    """Yield the value function of each site's game; its number of images keeps the cost within one epoch."""
    num_images = max(FEWEST_IMAGES, PASSES_OF_AN_EPOCH * learner.num_images // num_coalitions)
    inputs, targets = learner.sample(num_images, seed)

    @torch.no_grad()
    def value(site: SiteFilters, coalitions_MU: Tensor) -> Tensor:
        members_MU = coalitions_MU.to(inputs.device)
        values: list[Tensor] = []

        def masked(_: int, output_BU: Tensor) -> Tensor:
            return output_BU * per_unit(members_MU[len(values)], output_BU)

        with unit_outputs(learner, [site], masked):
            while len(values) < len(members_MU):
                values.append(learner.log_likelihoods(inputs, targets).double().mean())
        return torch.stack(values)

    for site in filters:
        yield partial(value, site)
