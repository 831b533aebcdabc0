"""Scores of a network's units by a criterion, for RePr and pruning."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from graftpop.hooks.data_criteria import DATA_CRITERIA
from graftpop.ops.criteria import CRITERIA
from graftpop.training.filters import SiteFilters, filters_of_units
from graftpop.training.learner import Learner

__all__ = ["ALL_CRITERIA", "COMPARABLE", "ranked", "scores"]

ALL_CRITERIA: Final = {**CRITERIA, **DATA_CRITERIA}
"""Criteria of weights and of data."""

COMPARABLE: Final = frozenset(
    {"entropy", "orthogonality", "passive", "random", "taylor", "apoz", "interaction", "dagger"}
)
"""Criteria whose scores mean the same in every layer."""


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
        criterion: a key of ALL_CRITERIA.
        seed: seeds the random criterion, and the batches of criteria of data.
    """
    if criterion in DATA_CRITERIA:
        return DATA_CRITERIA[criterion](learner, filters, seed)
    score, generator = CRITERIA[criterion], torch.Generator().manual_seed(seed)
    return [
        score(filters_of_units(site.weight, site.entry("scale"), site.entry("shift")), generator).clone()
        for site in filters
    ]
