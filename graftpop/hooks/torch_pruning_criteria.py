"""The importances of torch-pruning as criteria, to compare ours with them in one run.

torch-pruning scores the units that it can only remove together: it reduces the scores of all layers of such a group to
their mean, and divides by the mean of the group's units. Each site of a group gets an equal part, so that the sum over
the group is torch-pruning's score.

References:
    Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv:2301.12900; the package torch-pruning.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from graftpop.hooks.data_criteria import NUM_BATCHES, DataCriterion, trainable
from graftpop.models.forward_check import eval_copy
from graftpop.settings.pruning import TORCH_PRUNING
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner
from graftpop.training.removal import dependency_graph, pruning_group

__all__ = ["OF_BATCHNORM", "TORCH_PRUNING_CRITERIA", "importance"]

OF_GRADIENTS: Final = frozenset({"TaylorImportance"})


def importance(name: str, learner: Learner, filters: Sequence[SiteFilters], seed: int) -> list[Tensor]:
    """Return the scores of each site's units, (U,) float32, by a class of torch-pruning with its default arguments.

    Args:
        name: a class of `torch_pruning.importance`. Classes that need gradients get the mean gradient of up to
            NUM_BATCHES batches.
        learner: the learner that trains the network.
        filters: units, site by site, in channels that torch-pruning can remove.
        seed: seeds the batches.
    """
    from torch_pruning import importance as importances

    network = eval_copy(learner.network)
    if name in OF_GRADIENTS:
        _set_gradients(network, learner, seed)
    graph = dependency_graph(network, learner.sample(1, seed)[0])
    modules = [network.get_submodule(site.site.layer) for site in filters]
    score, found = getattr(importances, name)(), []
    for module, site in zip(modules, filters, strict=True):
        group = pruning_group(graph, module, range(site.num_filters))
        writers = {item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)}
        found.append((score(group) / sum(module in writers for module in modules)).float().to(site.weight.device))
    return found


def _set_gradients(network: nn.Module, learner: Learner, seed: int) -> None:
    """Give the parameters of a copy of a learner's network the mean gradient of some batches."""
    parameters = list(learner.network.parameters())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    num_batches = 0
    with trainable(parameters):
        for loss in learner.losses(NUM_BATCHES, seed):
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            torch._foreach_add_(sums, gradients)
            num_batches += 1
    for parameter, total in zip(network.parameters(), sums, strict=True):
        parameter.grad = total / num_batches


TORCH_PRUNING_CRITERIA: Final[Mapping[str, DataCriterion]] = {
    f"{TORCH_PRUNING}{name}": partial(importance, name)
    for name in ("MagnitudeImportance", "BNScaleImportance", "TaylorImportance", "FPGMImportance")
}

OF_BATCHNORM: Final = frozenset({f"{TORCH_PRUNING}BNScaleImportance"})
"""Criteria that read only the BatchNorm after a layer."""
