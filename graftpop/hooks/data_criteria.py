"""Criteria that need training images: one score per unit, from its outputs or its gradients; higher matters more.

All have one signature, so settings choose them by name. They read up to NUM_BATCHES batches of the training set, in
evaluation mode, and leave the network as it is. Scores are (U,) float32 on the weights' device, without a graph.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import torch
from torch import Tensor

from graftpop.hooks.dagger import dagger
from graftpop.hooks.interaction import interaction
from graftpop.hooks.unit_outputs import unit_outputs
from graftpop.sites import Part, Site
from graftpop.training.filters import SiteFilters, unit_view
from graftpop.training.learner import Learner

__all__ = ["DATA_CRITERIA", "DataCriterion", "activation", "apoz", "gate_products", "taylor", "trainable"]

NUM_BATCHES: Final = 10

DataCriterion = Callable[[Learner, Sequence[SiteFilters], int], list[Tensor]]
"""Function from a learner, the units of its sites and a seed of the batches to the scores of each site's units."""


def taylor(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[Tensor]:
    """Return how much the loss would change, to first order, if the output of a unit vanished.

        sum over batches of |g * dL/dg|      with a gate g = 1 that multiplies the unit's output y

    g * dL/dg is the sum of y * dL/dy over the images and positions of a batch. The output of an affine map is linear in
    its parameters, so this equals

        gamma * dL/dgamma + beta * dL/dbeta      of the normalization after the layer
        sum of w * dL/dw + b * dL/db             of the layer itself, without a normalization

    and no activation has to be kept.

    References:
        You et al., Gate Decorator, NeurIPS 2019, and its released code (read): the same sum, with gates for gamma.
        Molchanov et al., ICLR 2017, square or average it otherwise.
    """
    totals = [torch.zeros(site.num_filters, device=site.weight.device) for site in filters]
    names = sorted({part.tensor for site in filters for part in _last_affine(site.site)})
    parameters = [learner.network.get_parameter(name) for name in names]
    with trainable(parameters):
        for loss in learner.losses(NUM_BATCHES, seed):
            gradients = dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
            for total, products_U in zip(totals, gate_products(learner, filters, gradients), strict=True):
                total += products_U.abs()
    return totals


@contextmanager
def trainable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Make parameters require gradients inside the block, including those that the network has frozen."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@torch.no_grad()
def gate_products(
    learner: Learner, filters: Sequence[SiteFilters], gradients: Mapping[str, Tensor | None] | None = None
) -> list[Tensor]:
    """Return g * dL/dg of each site's units, (U,), from the gradients of the parameters; see `taylor`.

    Args:
        learner: the learner that trains the network.
        filters: units, site by site.
        gradients: gradients by name of the parameter; None: those stored in the parameters. A missing one is 0.
    """
    products: dict[str, Tensor] = {}
    for name in {part.tensor for site in filters for part in _last_affine(site.site)}:
        parameter = learner.network.get_parameter(name)
        gradient = parameter.grad if gradients is None else gradients[name]
        products[name] = torch.zeros_like(parameter) if gradient is None else parameter * gradient
    return [
        torch.stack(
            [
                unit_view(products[part.tensor], part, site.num_filters).reshape(site.num_filters, -1).sum(1)
                for part in _last_affine(site.site)
            ]
        ).sum(0)
        for site in filters
    ]


def activation(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[Tensor]:
    """Return the mean of ReLU(y) over images and positions, for the output y of each unit after its normalization.

    `bn_activation` is its expectation from the BatchNorm alone.

    References:
        Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, compare
        with it.
    """
    return _means(learner, filters, seed, torch.relu)


def apoz(learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[Tensor]:
    """Return the share of images and positions in which a ReLU would let a unit's output pass, in [0, 1].

        1 - APoZ,    APoZ = average percentage of zeros

    References:
        Hu et al., Network Trimming, 2016, arXiv:1607.03250: units with many zeros go first.
    """
    return _means(learner, filters, seed, partial(torch.gt, other=0))


DATA_CRITERIA: Final[Mapping[str, DataCriterion]] = {
    "taylor": taylor,
    "activation": activation,
    "apoz": apoz,
    "interaction": interaction,
    "dagger": dagger,
}


def _last_affine(site: Site) -> list[Part]:
    """Return the parts of the last affine map that computes a site's output: those of its normalization, or its own."""
    roles = ("scale", "shift") if site.norm is not None else ("bias",)
    own = [] if site.norm is not None else [site.weight]
    return [*own, *(entry.part for entry in site.entries if entry.role in roles)]


@torch.no_grad()
def _means(
    learner: Learner, filters: Sequence[SiteFilters], seed: int, function: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Return the mean of a function of each unit's output over the images and positions of all batches."""
    sums = [torch.zeros(site.num_filters, dtype=torch.float64, device=site.weight.device) for site in filters]
    counts = [0] * len(filters)

    def add(index: int, output_BU: Tensor) -> None:
        rows_NU = function(output_BU).movedim(1, -1).flatten(0, -2)
        sums[index] += rows_NU.sum(0, dtype=torch.float64)
        counts[index] += len(rows_NU)

    with unit_outputs(learner, filters, add):
        for _ in learner.losses(NUM_BATCHES, seed):
            pass
    return [(total / count).float() for total, count in zip(sums, counts, strict=True)]
