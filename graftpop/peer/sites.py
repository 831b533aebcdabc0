"""The sites that a population's methods act on, and the groups of their units that are permuted or pruned."""

from collections.abc import Sequence

from torch import nn

from graftpop.errors import ModelError
from graftpop.hooks.pruning_plan import PruningPlan, plan_pruning
from graftpop.hooks.ranking import check_criterion
from graftpop.models.layers import BATCHNORMS
from graftpop.settings import Settings
from graftpop.sites import ChannelGroup, Site, find_sites
from graftpop.sites.channel_groups import find_channel_groups

__all__ = ["channel_groups_of", "pruning_plan_of", "rankable", "sites_of"]


def sites_of(settings: Settings, network: nn.Module, image_shape: tuple[int, ...]) -> list[Site]:
    """Return the sites of a network, as `graft.sites` chooses them, in module order.

    Args:
        settings: the population's settings.
        network: the network; not changed.
        image_shape: (C, H, W) of its images.

    Raises:
        ModelError: the network cannot take such images, or lacks the sites that a method needs.
    """
    name = settings.model.name
    sites = find_sites(network, image_shape, name, settings.sites, settings.method_on_sites)
    method = settings.method_on_filters
    if method is not None:
        where = f"model.name: '{name}'"
        ranked = rankable(sites)
        if parametrized := next((site for site in ranked if not site.is_plain), None):
            raise ModelError(
                f"{where} must have plain weights for {method}, got a parametrized weight in '{parametrized.layer}'; "
                f"remove the parametrization, or remove {method}"
            )
        if not ranked:
            raise ModelError(
                f"{where} must have filters for {method}, units of a convolution, a Linear layer or attention before "
                f"the output layer, got {', '.join(site.name for site in sites)}; remove {method}"
            )
    if settings.repr is not None:
        check_criterion(settings.repr.criterion, rankable(sites), name, "repr.criterion")
    if settings.population.repair and not any(isinstance(module, BATCHNORMS) for module in network.modules()):
        raise ModelError(
            f"model.name: '{name}' must have a BatchNorm for population.repair, got none; set population.repair: false"
        )
    return sites


def rankable(sites: Sequence[Site]) -> list[Site]:
    """Return the sites whose units compute features: not those of the output layer, nor tables such as embeddings."""
    return [site for site in sites if site.kind != "table" and not site.is_output]


def channel_groups_of(settings: Settings, network: nn.Module, image_shape: tuple[int, ...]) -> list[ChannelGroup]:
    """Return the groups of channels that `align` permutes, in module order; none without that section.

    Arguments as for `sites_of`.

    Raises:
        ModelError: no channels of the network can be permuted.
    """
    return [] if settings.align is None else find_channel_groups(network, image_shape, settings.model.name)


def pruning_plan_of(
    settings: Settings, network: nn.Module, sites: Sequence[Site], image_shape: tuple[int, ...]
) -> PruningPlan | None:
    """Return the plan of the pruning; None without that section.

    Arguments as for `sites_of`, and the sites that it returned.

    Raises:
        ModelError: no units can be removed, or the target cannot be reached.
    """
    if settings.pruning is None:
        return None
    return plan_pruning(settings.pruning, network, rankable(sites), image_shape, settings.model.name)
