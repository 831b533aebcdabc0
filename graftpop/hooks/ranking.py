"""Scores of a network's filters by a criterion, for RePr and attenuation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftpop.ops.criteria import CRITERIA
from graftpop.training.filters import SiteFilters, filters_of_units

__all__ = ["ranked", "scores"]


def ranked(filters: Sequence[SiteFilters], *, skip_first: bool) -> Sequence[SiteFilters]:
    """Return the sites whose filters are ranked: all, or all but the first unless it is the only one.

    Args:
        filters: filters of every site, in module order.
        skip_first: exclude the first site.
    """
    return filters[1:] if skip_first and len(filters) > 1 else filters


def scores(filters: Sequence[SiteFilters], criterion: str, generator: torch.Generator) -> list[Tensor]:
    """Return the scores of each site's filters as new tensors (O); the lowest are weak.

    Args:
        filters: filters, site by site.
        criterion: a key of CRITERIA.
        generator: random generator on the CPU, used by the random criterion.
    """
    score = CRITERIA[criterion]
    return [
        score(filters_of_units(site.weight, site.entry("scale"), site.entry("shift")), generator).clone()
        for site in filters
    ]
