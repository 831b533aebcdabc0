"""Scores of a network's units by a criterion, for RePr and pruning."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from graftpop.errors import ModelError
from graftpop.hooks.data_criteria import DATA_CRITERIA, DataCriterion
from graftpop.hooks.torch_pruning_criteria import OF_BATCHNORM, TORCH_PRUNING_CRITERIA
from graftpop.hooks.unit_outputs import has_unit_outputs
from graftpop.ops.criteria import CRITERIA
from graftpop.sites import Site
from graftpop.training.filters import SiteFilters, filters_of_units
from graftpop.training.learner import Learner

__all__ = ["ALL_CRITERIA", "COMPARABLE", "CRITERIA_OF_GROUPS", "RESTRICTED", "check_criterion", "ranked", "scores"]

ALL_CRITERIA: Final = {**CRITERIA, **DATA_CRITERIA}
"""Criteria of weights and of data, which score the units of each layer."""

CRITERIA_OF_GROUPS: Final = {**ALL_CRITERIA, **TORCH_PRUNING_CRITERIA}
"""The same and those that score units of several layers together, for pruning."""

COMPARABLE: Final = frozenset(
    {"entropy", "orthogonality", "passive", "random", "taylor", "apoz", "interaction", "dagger"}
    | TORCH_PRUNING_CRITERIA.keys()
)
"""Criteria whose scores mean the same in every layer."""

OF_NORMALIZATION: Final = frozenset({"bn_scale", "bn_activation"})
"""Criteria that read only the normalization after a layer."""

RESTRICTED: Final = frozenset(DATA_CRITERIA.keys() | TORCH_PRUNING_CRITERIA.keys() | OF_NORMALIZATION)
"""Criteria that cannot score every site."""

_BATCHWISE: Final[Mapping[str, DataCriterion]] = {**DATA_CRITERIA, **TORCH_PRUNING_CRITERIA}


def check_criterion(criterion: str, sites: Sequence[Site], name: str, where: str) -> None:
    """Check that a criterion can score the units of some sites.

    Args:
        criterion: its name.
        sites: the sites.
        name: the user's name of the network, used in messages.
        where: the key of the criterion, used in messages.

    Raises:
        ModelError: it cannot.
    """
    if criterion in OF_NORMALIZATION:
        site = next((one for one in sites if one.entry("scale") is None), None)
        reason = "no normalization with a scale"
    elif criterion in OF_BATCHNORM:
        site = next((one for one in sites if not one.has_batchnorm or one.entry("scale") is None), None)
        reason = "no BatchNorm with a scale"
    elif criterion == "taylor":
        site = next((one for one in sites if one.norm is not None and one.entry("scale") is None), None)
        reason = "a normalization without scale"
    elif criterion in _BATCHWISE:
        site = next((one for one in sites if not has_unit_outputs(one)), None)
        reason = "units that are no channels of its output"
    else:
        return
    if site is not None:
        raise ModelError(f"{where}: {criterion} cannot score '{site.name}' of '{name}', got {reason}; choose l2")


def ranked(filters: Sequence[SiteFilters], *, skip_first: bool) -> Sequence[SiteFilters]:
    """Return the sites whose filters are ranked: all, or all but the first unless it is the only one.

    Args:
        filters: filters of every site, in module order.
        skip_first: exclude the first site.
    """
    return filters[1:] if skip_first and len(filters) > 1 else filters


def scores(learner: Learner, filters: Sequence[SiteFilters], criterion: str, seed: int) -> list[Tensor]:
    """Return the scores of each site's units as new tensors (U,); the lowest are weak.

    Args:
        learner: the learner that trains the network.
        filters: units, site by site.
        criterion: a key of CRITERIA_OF_GROUPS.
        seed: seeds the random criterion, and the batches of criteria of data.
    """
    if criterion in _BATCHWISE:
        return _BATCHWISE[criterion](learner, filters, seed)
    score, generator = CRITERIA[criterion], torch.Generator().manual_seed(seed)
    return [
        score(filters_of_units(site.weight, site.entry("scale"), site.entry("shift")), generator).clone()
        for site in filters
    ]
