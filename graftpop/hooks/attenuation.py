"""Attenuation: after every epoch the weakest filters of each layer are multiplied by a factor; at the end they go.

    W_f <- factor * W_f    for the share `rate` of a layer's filters with the lowest scores

One rule for a family, by its settings: filter attenuation (0 < factor < 1), soft filter pruning (factor 0), asymptotic
soft filter pruning (factor 0, rate growing), softer filter pruning (factor falling to 0), hard pruning (factor 0, not
recoverable). All filters train on, so that a weak one may come back, unless the weak ones are held at zero.

References:
    He et al., Soft Filter Pruning, IJCAI 2018, and Asymptotic Soft Filter Pruning, 2019; Cai et al., Softer Pruning,
    ICPR 2020. Filter attenuation (Mousa-Pasandi et al., ICIP 2020) is known by its abstract alone: that it multiplies
    weak filters by a constant factor every epoch is our reading.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftpop.hooks.hook import Hook
from graftpop.hooks.ranking import ranked, scores
from graftpop.ops.attenuation import FACTOR_SCHEDULES, RATE_SCHEDULES, attenuate_, weakest
from graftpop.seeds import derive
from graftpop.settings import AttenuationSettings
from graftpop.training.filters import SiteFilters, mask_dropped
from graftpop.training.learner import Learner

__all__ = ["Attenuation"]


class Attenuation(Hook):
    """Attenuation on one network.

    Args:
        learner: whose network it is.
        filters: of every site, in module order.
        settings: factor, rate, their schedules, and the criterion.
        epochs: of the whole training.
        seed: the study's.
        peer: whose random scores they are, where the criterion is random.
    """

    name = "attenuation"

    def __init__(
        self,
        learner: Learner,
        filters: Sequence[SiteFilters],
        settings: AttenuationSettings,
        *,
        epochs: int,
        seed: int,
        peer: int,
    ) -> None:
        self._learner, self._settings, self._epochs = learner, settings, epochs
        self._filters = ranked(filters, skip_first=settings.skip_first)
        self._seed, self._peer = seed, peer
        self._dropped = [torch.empty(0, dtype=torch.int64, device=site.weight.device) for site in self._filters]

    def before_epoch(self, epoch: int) -> None:
        """Attenuate the filters that are weak now, or drop them for good."""
        weak = self._weak(epoch)
        if not self._settings.recoverable:
            self._drop(weak)
            return
        factor = self._settings.factor * FACTOR_SCHEDULES[self._settings.factor_schedule](epoch, self._epochs)
        for site, indices in zip(self._filters, weak, strict=True):
            attenuate_(site.weight, indices, factor)

    def finish(self) -> None:
        """Drop the filters that are weak in the end: they give zero, whatever their BatchNorm.

        The statistics of the BatchNorms were measured with these filters, so they are measured anew.
        """
        self._drop(self._weak(self._epochs))
        if any(map(len, self._dropped)):
            self._learner.recalibrate()

    def _weak(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(derive(self._seed, "attenuation", self._peer, epoch))
        rate = self._settings.rate * RATE_SCHEDULES[self._settings.rate_schedule](epoch, self._epochs)
        found = scores(self._filters, self._settings.criterion, generator)
        for of_site, dropped in zip(found, self._dropped, strict=True):
            of_site[dropped] = -torch.inf  # what is gone for good counts, and counts first
        return [weakest(of_site, rate) for of_site in found]

    def _drop(self, weak: list[Tensor]) -> None:
        self._dropped = weak
        for site, indices in zip(self._filters, weak, strict=True):
            site.drop_(indices)
        mask_dropped(self._learner, self._filters, weak)

    def state_dict(self) -> dict[str, Tensor]:
        """Return which filters are dropped for good."""
        return {
            site.site.conv: dropped for site, dropped in zip(self._filters, self._dropped, strict=True) if len(dropped)
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._dropped = [
            tensors.get(site.site.conv, torch.empty(0, dtype=torch.int64)).to(site.weight.device)
            for site in self._filters
        ]
        mask_dropped(self._learner, self._filters, self._dropped)
