"""The units of a network, site by site: views of all their entries, with operations to drop, revive and copy them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from graftpop.ops.criteria import Filters
from graftpop.sites import Part, Role, Site
from graftpop.training.learner import Learner

__all__ = ["DROPPED", "SiteFilters", "filters_of_units", "mask_dropped", "site_filters", "site_weights", "unit_view"]

REVIVED: Final[Mapping[Role, float]] = {"bias": 0.0, "scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
"""Entries of a revived unit. Other entries, such as the slope of a PReLU, keep their values."""

DROPPED: Final[tuple[Role, ...]] = ("bias", "scale", "shift")
"""Entries that are zero in a dropped unit, besides its weight."""


@dataclass(frozen=True)
class SiteFilters:
    """The units of one site, as views of the network's tensors.

    Every tensor has one entry per unit along its first dimension. Writing to it changes the network.

    Attributes:
        learner: the learner that trains the network.
        site: the site.
        weight: its weight, (U, ...).
        entries: every tensor that belongs to it, with its role, each (U, ...), in the order of `site.entries`.
    """

    learner: Learner
    site: Site
    weight: Tensor
    entries: tuple[tuple[Role, Tensor], ...]

    def entry(self, role: Role) -> Tensor | None:
        """Return the entries with a role, (U) or (U, channels per unit); None if there are none."""
        return next((tensor for name, tensor in self.entries if name == role), None)

    @property
    def num_filters(self) -> int:
        """Number of units of the site."""
        return len(self.weight)

    def drop_(self, dropped: Tensor) -> None:
        """Zero some units with their bias, scale, shift and momentum, so that they output zero.

        Args:
            dropped: indices of the units, int64 (D).
        """
        self.weight[dropped] = 0.0
        for role, tensor in self.entries:
            if role in DROPPED:
                tensor[dropped] = 0.0
        self.clear_momentum_(dropped)

    def revive_(self, dropped: Tensor, weight: Tensor) -> None:
        """Give dropped units new weights, and reset everything else that was zeroed or measured.

        Scale and variance become 1; bias, shift, mean and momentum become 0.

        Args:
            dropped: indices of the units, int64 (D).
            weight: their new weights, (D, ...).
        """
        self.weight[dropped] = weight.to(self.weight)
        for role, tensor in self.entries:
            if role in REVIVED:
                tensor[dropped] = REVIVED[role]
        self.clear_momentum_(dropped)

    def copy_(self, receivers: Tensor, donors: Tensor) -> None:
        """Copy some units, with everything that belongs to them but without momentum, into others.

        Args:
            receivers: indices of the units to overwrite, int64 (M).
            donors: indices of the units to copy, int64 (M), disjoint from `receivers`.
        """
        for tensor in (self.weight, *(tensor for _, tensor in self.entries)):
            tensor[receivers] = tensor[donors]

    def clear_momentum_(self, filters: Tensor) -> None:
        """Set the momentum of some units to zero."""
        for part in self.dropped_parts:
            if (momentum := self.learner.momentum(part.tensor)) is not None:
                unit_view(momentum, part, self.site.num_units)[filters] = 0.0

    @property
    def dropped_parts(self) -> Iterator[Part]:
        """The parts that are zero in a dropped unit."""
        yield self.site.weight
        yield from (entry.part for entry in self.site.entries if entry.role in DROPPED)


def site_filters(learner: Learner, sites: Iterable[Site]) -> list[SiteFilters]:
    """Return the units of each site of a learner's network, in the order of `sites`."""

    def view(part: Part, site: Site) -> Tensor:
        return unit_view(learner.state[part.tensor], part, site.num_units)

    return [
        SiteFilters(
            learner,
            site,
            view(site.weight, site),
            tuple((entry.role, view(entry.part, site)) for entry in site.entries),
        )
        for site in sites
    ]


def unit_view(tensor: Tensor, part: Part, num_units: int) -> Tensor:
    """Return a part of a tensor as its units, (U, ...): a view with the unit axis first.

    A unit of one index has the tensor's other axes; a unit of several has the axis of its indices before them.

    Args:
        tensor: the tensor that the part names.
        part: the part, along its unit axis.
        num_units: number of equal blocks of the part, U.
    """
    blocks = tensor.narrow(part.axis, part.start, part.length).movedim(part.axis, 0)
    return blocks if part.length == num_units else blocks.unflatten(0, (num_units, -1))


def site_weights(network: nn.Module, sites: Iterable[Site]) -> dict[str, Tensor]:
    """Return the weight of each site of a network by the name of the site, (U, ...), as views."""
    return {
        site.name: unit_view(network.get_parameter(site.weight.tensor), site.weight, site.num_units) for site in sites
    }


def filters_of_units(weight: Tensor, scale: Tensor | None, shift: Tensor | None) -> Filters:
    """Return the units of a site for a criterion, with one scale and one shift each.

    A unit of several channels has the mean of their absolute scales and of their shifts.

    Args:
        weight: (U, ...).
        scale: scale of the normalization, (U) or (U, channels per unit); None if there is none.
        shift: its shift, the same shape.
    """

    def of_units(entries: Tensor | None, channel_mean: Callable[[Tensor], Tensor]) -> Tensor | None:
        if entries is None or entries.numel() == len(weight):
            return None if entries is None else entries.flatten()
        return channel_mean(entries.flatten(1))

    return Filters(
        weight, of_units(scale, lambda entries: entries.abs().mean(1)), of_units(shift, lambda entries: entries.mean(1))
    )


def mask_dropped(learner: Learner, filters: Sequence[SiteFilters], dropped: Sequence[Tensor]) -> None:
    """Mask the gradients of dropped units, so that they stay at zero; any earlier mask is replaced.

    Weights and momentum must be zero already (`SiteFilters.drop_`): then momentum and weight decay change nothing.

    Args:
        learner: the learner that trains the units.
        filters: units, site by site.
        dropped: indices of the dropped units, one int64 tensor per site; if all are empty, no gradient is masked.
    """
    masks: dict[str, Tensor] = {}
    for site, indices in zip(filters, dropped, strict=True):
        if not len(indices):
            continue
        for part in site.dropped_parts:
            whole = learner.state[part.tensor]
            if part.tensor not in masks:  # parts of one tensor share its mask
                shape = [length if axis == part.axis else 1 for axis, length in enumerate(whole.shape)]
                masks[part.tensor] = torch.ones(shape, device=whole.device)
            unit_view(masks[part.tensor], part, site.num_filters)[indices] = 0.0
    learner.mask_gradients(masks)
