"""The plan of pruning for a network, made before the training: groups of units, their FLOPs, and limits."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from graftpop.errors import ModelError
from graftpop.hooks.ranking import check_criterion
from graftpop.models.flops import flops_by_weight
from graftpop.settings import PruningSettings
from graftpop.sites import Site
from graftpop.training.unit_groups import Size, UnitGroup, find_unit_groups

__all__ = ["PruningPlan", "grouped_sites", "plan_pruning"]


@dataclass(frozen=True)
class PruningPlan:
    """Facts about a network that pruning needs before the training.

    Attributes:
        groups: its groups of units.
        flops: floating-point operations of each group's layers for one image; 0 unless the allocation is `cross_layer`.
        size: computes the network's size without some units; None if the units may not be removable.
        least_share: smallest share of the units of each group that stays.
    """

    groups: Sequence[UnitGroup]
    flops: Sequence[int]
    size: Size | None
    least_share: float

    def least(self, group: UnitGroup) -> int:
        """Return the smallest number of units of a group that stay, at least 1."""
        return max(1, math.ceil(self.least_share * group.num_units - 1e-9))


def plan_pruning(
    settings: PruningSettings, network: nn.Module, sites: Sequence[Site], image_shape: tuple[int, ...], name: str
) -> PruningPlan:
    """Return the plan for a network.

    Args:
        settings: the section of the settings.
        network: the network; not changed.
        sites: the sites whose units may be dropped, in module order.
        image_shape: (C, H, W) of its images.
        name: the user's name of the network, used in messages.

    Raises:
        ModelError: no units can be removed, the target cannot be reached, or a layer's FLOPs are not known.
    """
    method = settings.method
    groups = find_unit_groups(network, sites, image_shape, name, method.coupled)
    groups = [group for group in groups if not (settings.skip_first and 0 in group.members)] or groups
    grouped = [sites[index] for index in grouped_sites(groups)]
    check_criterion(method.criterion, grouped, name, "pruning.criterion")
    if method.allocation == "utilization":
        check_criterion("interaction", grouped, name, "pruning.allocation")
    if method.schedule == "gated":
        _check_gates(network, grouped, name)
    of_weights = flops_by_weight(network, image_shape) if method.allocation == "cross_layer" else {}
    flops = [sum(of_weights.get(sites[index].weight.tensor, 0) for index in group.members) for group in groups]
    if method.allocation == "cross_layer" and not all(flops):
        unknown = sites[next(iter(groups[flops.index(0)].members))].name
        raise ModelError(
            f"model.name: '{name}' must have layers with known FLOPs for pruning.allocation: cross_layer, got "
            f"'{unknown}', whose weight is passed to a function; choose uniform or global"
        )
    size = None if method.coupled == "apart" else Size(network, groups, image_shape)
    plan = PruningPlan(groups, flops, size, settings.least_share)
    if settings.target is not None and size is not None:
        smallest = size.share_left(settings.target_of, [group.num_units - plan.least(group) for group in groups])
        if smallest > settings.target:
            step = "raise it, or set pruning.coupled: sum" if method.coupled == "skip" else "raise it"
            raise ModelError(
                f"pruning.target: must be at least {smallest:.3f} of the {settings.target_of} of '{name}', which are "
                f"left if every layer loses all units that it may, got {settings.target:g}; {step}"
            )
    return plan


def _check_gates(network: nn.Module, sites: Sequence[Site], name: str) -> None:
    """Check that each site has a gate that the training changes."""
    for site in sites:
        gate = site.entry("scale")
        if gate is None:
            raise ModelError(
                f"pruning.schedule: gated needs layers before a normalization with a scale, which is their gate, got "
                f"'{site.name}' of '{name}'; choose another schedule"
            )
        if not network.get_parameter(gate.tensor).requires_grad:
            raise ModelError(
                f"pruning.schedule: gated trains the scales of normalizations, which are its gates, got the frozen "
                f"'{gate.tensor}' of '{name}'; choose another schedule"
            )


def grouped_sites(groups: Iterable[UnitGroup]) -> list[int]:
    """Return the indices of the sites in some groups, in module order."""
    return sorted({index for group in groups for index in group.members})
