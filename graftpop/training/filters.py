"""The filters of a network, site by site: views of all their entries, with operations to drop, revive and copy them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftpop.training.learner import Learner
from graftpop.training.sites import Site

__all__ = ["SiteFilters", "site_filters", "mask_dropped"]


@dataclass(frozen=True)
class SiteFilters:
    """The filters of one site, as views of the network's tensors.

    Every tensor has one entry per filter along its first dimension. Writing to it changes the network.

    Attributes:
        learner: the learner that trains the network.
        site: module names of the convolution and its BatchNorm.
        weight: the convolution's weight, (O, ...).
        bias: the convolution's bias, (O).
        scale: the BatchNorm's weight, (O).
        shift: the BatchNorm's bias, (O).
        mean: the BatchNorm's running mean, (O).
        variance: the BatchNorm's running variance, (O).
    """

    learner: Learner
    site: Site
    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    mean: Tensor | None
    variance: Tensor | None

    @property
    def num_filters(self) -> int:
        """Number of filters of the site."""
        return len(self.weight)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors, by their names in the network."""
        conv, norm = self.site.conv, self.site.norm
        named = {
            f"{conv}.weight": self.weight,
            f"{conv}.bias": self.bias,
            f"{norm}.weight": self.scale,
            f"{norm}.bias": self.shift,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def drop_(self, dropped: Tensor) -> None:
        """Zero some filters with their bias, BatchNorm scale and shift, and momentum, so that they output zero.

        Args:
            dropped: indices of the filters, int64 (D).
        """
        for tensor in self.parameters.values():
            tensor[dropped] = 0.0
        self.clear_momentum_(dropped)

    def revive_(self, dropped: Tensor, weight: Tensor) -> None:
        """Give dropped filters new weights, and reset everything else that belongs to them.

        Scale and variance become 1; bias, shift, mean and momentum become 0.

        Args:
            dropped: indices of the filters, int64 (D).
            weight: their new weights, (D, ...).
        """
        self.weight[dropped] = weight.to(self.weight)
        for tensor, value in (
            (self.bias, 0.0),
            (self.scale, 1.0),
            (self.shift, 0.0),
            (self.mean, 0.0),
            (self.variance, 1.0),
        ):
            if tensor is not None:
                tensor[dropped] = value
        self.clear_momentum_(dropped)

    def copy_(self, receivers: Tensor, donors: Tensor) -> None:
        """Copy some filters, with their BatchNorm entries but without momentum, into others.

        Args:
            receivers: indices of the filters to overwrite, int64 (M).
            donors: indices of the filters to copy, int64 (M), disjoint from `receivers`.
        """
        for tensor in (self.weight, self.bias, self.scale, self.shift, self.mean, self.variance):
            if tensor is not None:
                tensor[receivers] = tensor[donors]

    def clear_momentum_(self, filters: Tensor) -> None:
        """Set the momentum of some filters to zero."""
        for name in self.parameters:
            if (momentum := self.learner.momentum(name)) is not None:
                momentum[filters] = 0.0


def site_filters(learner: Learner, sites: Iterable[Site]) -> list[SiteFilters]:
    """Return the filters of each site of a learner's network, in the order of `sites`."""
    state = learner.state
    return [
        SiteFilters(
            learner,
            site,
            state[f"{site.conv}.weight"],
            state.get(f"{site.conv}.bias"),
            state.get(f"{site.norm}.weight"),
            state.get(f"{site.norm}.bias"),
            state.get(f"{site.norm}.running_mean"),
            state.get(f"{site.norm}.running_var"),
        )
        for site in sites
    ]


def mask_dropped(learner: Learner, filters: Sequence[SiteFilters], dropped: Sequence[Tensor]) -> None:
    """Mask the gradients of dropped filters, so that they stay at zero; any earlier mask is replaced.

    Weights and momentum must be zero already (`SiteFilters.drop_`): then momentum and weight decay change nothing.

    Args:
        learner: the learner that trains the filters.
        filters: filters, site by site.
        dropped: indices of the dropped filters, one int64 tensor per site; if all are empty, no gradient is masked.
    """
    masks = {}
    for site, indices in zip(filters, dropped, strict=True):
        if len(indices):
            kept = torch.ones(site.num_filters, device=site.weight.device)
            kept[indices] = 0.0
            for name, tensor in site.parameters.items():
                masks[name] = kept.view(-1, *[1] * (tensor.dim() - 1))
    learner.mask_gradients(masks)
