"""The filters of a network, site by site: everything that belongs to one filter, to rank, to drop and to give back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftpop.training.learner import Learner
from graftpop.training.sites import Site

__all__ = ["SiteFilters", "site_filters", "mask_dropped"]


@dataclass(frozen=True)
class SiteFilters:
    """The filters of one site.

    Every tensor has one entry a filter along its first dimension, and is a view: who writes to it changes the network.

    Attributes:
        learner: whose they are.
        site: where they are.
        weight: of the convolution, (O, ...).
        bias: of the convolution, (O).
        scale: of the BatchNorm, (O).
        shift: of the BatchNorm, (O).
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
        """How many filters the site has."""
        return len(self.weight)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those of the tensors that are trained, by their names in the network."""
        conv, norm = self.site.conv, self.site.norm
        named = {
            f"{conv}.weight": self.weight,
            f"{conv}.bias": self.bias,
            f"{norm}.weight": self.scale,
            f"{norm}.bias": self.shift,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def drop_(self, dropped: Tensor) -> None:
        """Let some filters give zero: their weights, and the BatchNorm's scale and shift behind them.

        Args:
            dropped: indices, int64.
        """
        for tensor in self.parameters.values():
            tensor[dropped] = 0.0
        self.clear_momentum_(dropped)

    def revive_(self, dropped: Tensor, weight: Tensor) -> None:
        """Give dropped filters new weights and the BatchNorm entries of a new network: scale and variance 1, else 0.

        Args:
            dropped: indices, int64 (D).
            weight: (D, ...).
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
        """Copy some filters, with their BatchNorm entries, into others.

        Args:
            receivers: indices, int64 (M).
            donors: indices, int64 (M), none of them among the receivers.
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
    """Return the filters of every site of a learner's network."""
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
    """Let dropped filters receive no update, neither by gradients nor by momentum nor by weight decay.

    Args:
        learner: whose filters they are.
        filters: site by site.
        dropped: indices, int64, one tensor a site; where all are empty, everything is let go.
    """
    masks = {}
    for site, indices in zip(filters, dropped, strict=True):
        if len(indices):
            kept = torch.ones(site.num_filters, device=site.weight.device)
            kept[indices] = 0.0
            for name, tensor in site.parameters.items():
                masks[name] = kept.view(-1, *[1] * (tensor.dim() - 1))
    learner.mask_gradients(masks)
