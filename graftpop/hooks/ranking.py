"""Scores of a network's filters by a criterion: what RePr and attenuation rank."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftpop.ops.criteria import CRITERIA, Filters
from graftpop.training.filters import SiteFilters

__all__ = ["ranked", "scores"]


def ranked(filters: Sequence[SiteFilters], *, skip_first: bool) -> Sequence[SiteFilters]:
    """Return the sites whose filters are ranked: all, or all but the first convolution where it is not the only one.

    Args:
        filters: of every site, in module order.
        skip_first: leave the first convolution alone.
    """
    return filters[1:] if skip_first and len(filters) > 1 else filters


def scores(filters: Sequence[SiteFilters], criterion: str, generator: torch.Generator) -> list[Tensor]:
    """Return the scores of the filters of each site, new tensors (O), higher matters more.

    Args:
        filters: site by site.
        criterion: a key of CRITERIA.
        generator: on the CPU; what `random` draws from.
    """
    score = CRITERIA[criterion]
    return [score(Filters(site.weight, site.scale, site.shift), generator).clone() for site in filters]
