"""Pruning: weaken or drop the units with the lowest scores between epochs, and drop them for good at the end.

Four choices of the settings make up a method:

    criterion    the score of a unit                  `ops.criteria`, `hooks.data_criteria`
    allocation   how many units each layer loses      `ops.allocation`
    selection    which ones                           the lowest, or those of `ops.selection.k_reciprocal`
    schedule     what happens to them, and when       `SCHEDULES`

`graftpop.settings.pruning.PRESETS` names published combinations. Where the units of several layers can only be removed
together, they are one group (`training.unit_groups`).

References:
    He et al., Soft Filter Pruning, IJCAI 2018, and Asymptotic Soft Filter Pruning, 2019; Cai et al., Softer Pruning,
    ICPR 2020. Filter attenuation is Mousa-Pasandi et al., ICIP 2020. We know only its abstract; a constant factor
    every epoch is our reading. Lin et al., CLR-RNF, TNNLS 2022. Singh, Plumbley, passive filter pruning, 2023.
    Enderich et al., Holistic Filter Pruning, arXiv:2009.08169, of which we know only the abstract too.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Final, NamedTuple

import torch
from torch import Tensor

from graftpop.hooks.hook import Hook
from graftpop.hooks.interaction import utilization
from graftpop.hooks.pruning_plan import PruningPlan, grouped_sites
from graftpop.hooks.ranking import COMPARABLE, scores
from graftpop.ops.allocation import budget, by_utilization, cross_layer, global_ranking, normalized, uniform
from graftpop.ops.attenuation import ShareSchedule, attenuate_, constant, falling, growing, zero
from graftpop.ops.pruning_target import counts_for_target
from graftpop.ops.selection import k_reciprocal, lowest
from graftpop.seeds import derive
from graftpop.settings import PruningSettings
from graftpop.training.filters import SiteFilters, mask_dropped
from graftpop.training.learner import Learner
from graftpop.training.unit_groups import UnitGroup

__all__ = ["SCHEDULES", "Pruning"]


class Schedule(NamedTuple):
    """Treatment of weak units after every epoch.

    Attributes:
        amount: share of the rate, or of the reduction to the target, at an epoch.
        factor: number by which weak units are multiplied.
        recovers: whether they continue to train.
    """

    amount: ShareSchedule
    factor: ShareSchedule
    recovers: bool = True


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "attenuate": Schedule(constant, constant),  # times `pruning.factor`
    "soft": Schedule(constant, zero),
    "asymptotic": Schedule(growing, zero),
    "softer": Schedule(constant, falling),
    "hard": Schedule(constant, zero, recovers=False),
    "gated": Schedule(constant, zero, recovers=False),  # `hooks.gated` has its own epochs
}


class Pruning(Hook):
    """Pruning of the units of one network.

    Args:
        learner: the learner that trains the network.
        filters: units of every site, in the order of the plan's sites.
        settings: the section of the settings.
        plan: the plan for the network.
        epochs: epochs of the whole training.
        seed: the study's seed.
        peer: index of the peer; seeds the scores of the random criterion.
    """

    name = "pruning"

    def __init__(  # the network, its plan, the length of the training, and the seeds
        self,
        learner: Learner,
        filters: Sequence[SiteFilters],
        settings: PruningSettings,
        plan: PruningPlan,
        *,
        epochs: int,
        seed: int,
        peer: int,
    ) -> None:
        self._learner, self._filters, self._plan = learner, filters, plan
        self._settings, self._method = settings, settings.method
        self._schedule = SCHEDULES[self._method.schedule]
        self._groups = [_Units(group, filters) for group in plan.groups]
        self._grouped = {index: filters[index] for index in grouped_sites(plan.groups)}
        self._first_epoch, self._epochs = max(1, math.floor(settings.start * epochs + 1e-9)), epochs
        self._seed, self._peer = seed, peer
        self._dropped = self._nothing()

    def _nothing(self) -> list[Tensor]:
        return [torch.empty(0, dtype=torch.int64, device=site.weight.device) for site in self._filters]

    def before_epoch(self, epoch: int) -> None:
        """Multiply the weak units by the factor, or drop them if they do not recover."""
        if epoch < self._first_epoch:
            return
        if not self._schedule.recovers:
            self._drop(self._dropped if any(map(len, self._dropped)) else self._weak(epoch))
            return
        factor = self._schedule.factor(epoch, self._epochs)
        if self._method.schedule == "attenuate":
            factor *= self._settings.factor
        for site, units in zip(self._filters, self._weak(epoch), strict=True):
            attenuate_(site.weight, units, factor)

    def finish(self) -> None:
        """Drop the weak units, so that they output zero also after their BatchNorm.

        The BatchNorm statistics were measured with these units, so they are recomputed.
        """
        if self._schedule.recovers or not any(map(len, self._dropped)):
            self._drop(self._weak(self._epochs))
        if any(map(len, self._dropped)):
            self._learner.recalibrate()

    def _weak(self, epoch: int) -> list[Tensor]:
        """Return the units of each site that are weak after an epoch; dropped units stay among them."""
        group_scores = self._group_scores(self._scores(epoch))
        counts = self._counts(group_scores, epoch)
        weak = self._nothing()
        for units, scores_U, count in zip(self._groups, group_scores, counts, strict=True):
            if self._method.selection == "k_reciprocal":
                lost = units.all_but(k_reciprocal(units.rows(), len(scores_U) - count))
            else:
                lost = lowest(scores_U, count)
            for index, of_site in units.members.items():
                weak[index] = of_site[lost]
        return weak

    def _scores(self, epoch: int) -> Mapping[int, Tensor]:
        """Return the scores of the units of each site in a group after an epoch, by the index of the site."""
        seed = derive(self._seed, "pruning", self._peer, epoch)
        found = scores(self._learner, list(self._grouped.values()), self._method.criterion, seed)
        return dict(zip(self._grouped, found, strict=True))

    def _amount(self, epoch: int) -> float:
        """Return the share of the rate, or of the reduction to the target, after an epoch."""
        return self._schedule.amount(epoch, self._epochs)

    def _group_scores(self, site_scores: Mapping[int, Tensor]) -> list[Tensor]:
        """Return the scores of each group's units, (U,); comparable between groups if one ranking covers all."""
        found = []
        for units in self._groups:
            scores_U = units.sum_of(site_scores)
            if self._method.allocation in ("global", "budget") and self._method.criterion not in COMPARABLE:
                scores_U = normalized(scores_U)
            scores_U[units.among(self._dropped)] = -torch.inf
            found.append(scores_U)
        return found

    def _counts(self, group_scores: Sequence[Tensor], epoch: int) -> Sequence[int]:
        """Return how many units each group loses.

        Args:
            group_scores: scores of each group's units, (U,).
            epoch: epochs trained so far.
        """
        settings, method, plan, amount = self._settings, self._method, self._plan, self._amount(epoch)
        least = [plan.least(group) for group in plan.groups]
        rows = [units.rows() for units in self._groups] if method.allocation == "cross_layer" else []
        utilizations, dropped = list[float](), list[int]()
        if method.allocation == "utilization":
            utilizations = self._utilizations(epoch)
            dropped = [int(units.among(self._dropped).sum()) for units in self._groups]

        def allocate(rate: float) -> Sequence[int]:
            if method.allocation == "uniform":
                return uniform([len(scores_U) for scores_U in group_scores], rate, least)
            if method.allocation == "global":
                return global_ranking(group_scores, rate, least)
            if method.allocation == "utilization":
                found = by_utilization([len(scores_U) for scores_U in group_scores], utilizations, rate, least)
                return [*map(max, found, dropped)]  # utilizations change, but dropped units stay dropped
            return cross_layer(rows, plan.flops, settings.flops_exponent, rate, least)

        if settings.target is None:
            return allocate(settings.rate * amount)
        assert plan.size is not None, "the settings refuse a target of units that may not be removable"
        target = 1 - (1 - settings.target) * amount
        if method.allocation == "budget":
            return budget(group_scores, partial(plan.size.smooth_share_left, settings.target_of), target, least)
        return counts_for_target(target, allocate, partial(plan.size.share_left, settings.target_of))

    def _utilizations(self, epoch: int) -> list[float]:
        """Return the utilization of each group: the mean of its layers."""
        seed = derive(self._seed, "utilization", self._peer, epoch)
        found = utilization(self._learner, list(self._grouped.values()), seed)
        of_sites = dict(zip(self._grouped, found, strict=True))
        return [fmean(of_sites[index] for index in units.members) for units in self._groups]

    def _drop(self, weak: list[Tensor]) -> None:
        self._dropped = weak
        for site, units in zip(self._filters, weak, strict=True):
            site.drop_(units)
        mask_dropped(self._learner, self._filters, weak)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the indices of the dropped units, by the name of their site."""
        return {
            site.site.name: dropped for site, dropped in zip(self._filters, self._dropped, strict=True) if len(dropped)
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned, and mask the gradients of the dropped units again."""
        self._dropped = [
            tensors.get(site.site.name, nothing).to(nothing.device)
            for site, nothing in zip(self._filters, self._nothing(), strict=True)
        ]
        mask_dropped(self._learner, self._filters, self._dropped)


class _Units:
    """The units of a group in the tensors of a learner.

    Attributes:
        members: the site's unit for each of the group's units, (U,), by the index of the site.
    """

    def __init__(self, group: UnitGroup, filters: Sequence[SiteFilters]) -> None:
        self._filters = filters
        self.members = {index: units.to(filters[index].weight.device) for index, units in group.members.items()}

    def sum_of(self, site_scores: Mapping[int, Tensor]) -> Tensor:
        """Return the sum of the scores of each unit's members, (U,)."""
        return torch.stack([site_scores[index][units] for index, units in self.members.items()]).sum(0)

    def rows(self) -> Tensor:
        """Return the weights of each unit in all sites, (U, K)."""
        rows = [self._filters[index].weight[units].flatten(1) for index, units in self.members.items()]
        return torch.cat(rows, 1)

    def among(self, of_sites: Sequence[Tensor]) -> Tensor:
        """Return whether each unit of the group is among the given units of every site, (U,) bool."""
        index, units = next(iter(self.members.items()))
        return torch.isin(units, of_sites[index])

    def all_but(self, kept: Tensor) -> Tensor:
        """Return the indices of the units that are not kept."""
        is_lost = torch.ones(len(next(iter(self.members.values()))), dtype=torch.bool, device=kept.device)
        is_lost[kept] = False
        return is_lost.nonzero().flatten()
