"""Scions from inside one network: noise, or its own strongest filters, into its invalid filters, after every epoch.

They are the two sources that external grafting is compared with: a network's own filters bring no new information, and
noise is information about nothing (Meng et al., CVPR 2020, section 3.2).
"""

from collections.abc import Sequence

import torch

from graftpop.hooks.hook import Hook
from graftpop.ops.scions import internal_scions, noise_deviation, noise_scions
from graftpop.seeds import derive
from graftpop.training.filters import SiteFilters

__all__ = ["InternalScions", "NoiseScions"]


class NoiseScions(Hook):
    """Add noise to the weights of invalid filters, less of it with every epoch.

    Args:
        filters: of every site.
        threshold: L1 norm below which a filter is invalid.
        base: the noise's standard deviation is base ** epochs.
        seed: the study's.
        peer: whose noise it is.
    """

    name = "noise"

    def __init__(self, filters: Sequence[SiteFilters], *, threshold: float, base: float, seed: int, peer: int) -> None:
        self._filters, self._threshold, self._base = filters, threshold, base
        self._seed, self._peer = seed, peer

    def before_epoch(self, epoch: int) -> None:
        """See the class."""
        generator = torch.Generator().manual_seed(derive(self._seed, "noise", self._peer, epoch))
        deviation = noise_deviation(self._base, epoch)
        for site in self._filters:
            site.weight.copy_(noise_scions(site.weight, self._threshold, deviation, generator))


class InternalScions(Hook):
    """Copy the i-th strongest filter of each site, with its BatchNorm entries, into its i-th weakest invalid one.

    Args:
        filters: of every site.
        threshold: L1 norm below which a filter is invalid.
    """

    name = "internal"

    def __init__(self, filters: Sequence[SiteFilters], *, threshold: float) -> None:
        self._filters, self._threshold = filters, threshold

    def before_epoch(self, epoch: int) -> None:
        """See the class."""
        del epoch
        for site in self._filters:
            site.copy_(*internal_scions(site.weight, self._threshold))
