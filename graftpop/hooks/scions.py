"""Scions from inside one network: graft noise, or the network's strongest filters, into invalid filters.

Both act between two epochs. They are the alternatives to external grafting: neither noise nor the network's own filters
bring new information (Meng et al., CVPR 2020, section 3.2).
"""

from collections.abc import Sequence

import torch

from graftpop.hooks.hook import Hook
from graftpop.ops.scions import internal_scions, noise_deviation, noise_scions
from graftpop.seeds import derive
from graftpop.training.filters import SiteFilters

__all__ = ["InternalScions", "NoiseScions"]


class NoiseScions(Hook):
    """Adds noise to the weights of invalid filters; the noise decreases with every epoch.

    Args:
        filters: filters of every site.
        threshold: L1 norm below which a filter is invalid.
        base: base of the noise's standard deviation, base ** epochs.
        seed: the study's seed.
        peer: index of the peer; seeds the noise.
    """

    name = "noise"

    def __init__(self, filters: Sequence[SiteFilters], *, threshold: float, base: float, seed: int, peer: int) -> None:
        self._filters, self._threshold, self._base = filters, threshold, base
        self._seed, self._peer = seed, peer

    def before_epoch(self, epoch: int) -> None:
        """Add noise with standard deviation base ** epoch to the invalid filters."""
        generator = torch.Generator().manual_seed(derive(self._seed, "noise", self._peer, epoch))
        deviation = noise_deviation(self._base, epoch)
        for site in self._filters:
            site.weight.copy_(noise_scions(site.weight, self._threshold, deviation, generator))


class InternalScions(Hook):
    """Copies the i-th strongest filter of each site, with its BatchNorm entries, into the i-th weakest invalid one.

    Args:
        filters: filters of every site.
        threshold: L1 norm below which a filter is invalid.
    """

    name = "internal"

    def __init__(self, filters: Sequence[SiteFilters], *, threshold: float) -> None:
        self._filters, self._threshold = filters, threshold

    def before_epoch(self, epoch: int) -> None:
        """Copy the strongest filters of each site into its invalid ones."""
        del epoch
        for site in self._filters:
            site.copy_(*internal_scions(site.weight, self._threshold))
