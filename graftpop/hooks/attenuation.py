"""Attenuation: multiply the weakest filters of each layer by a factor after every epoch, and drop them at the end.

    W_f <- factor * W_f    for the share `rate` of a layer's filters with the lowest scores

The settings select one of a family of methods:

    filter attenuation               0 < factor < 1
    soft filter pruning              factor 0
    asymptotic soft filter pruning   factor 0, rate growing
    softer filter pruning            factor falling to 0
    hard pruning                     factor 0, not recoverable

All filters continue to train, so that a weak one may recover; hard pruning keeps the weak ones at zero.

References:
    He et al., Soft Filter Pruning, IJCAI 2018, and Asymptotic Soft Filter Pruning, 2019; Cai et al., Softer Pruning,
    ICPR 2020. Filter attenuation is Mousa-Pasandi et al., ICIP 2020. We know only its abstract; a constant factor
    every epoch is our reading.
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
    """Attenuation of the filters of one network.

    Args:
        learner: the learner that trains the network.
        filters: filters of every site, in module order.
        settings: factor, rate, their schedules, and the criterion.
        epochs: epochs of the whole training.
        seed: the study's seed.
        peer: index of the peer; seeds the scores of the random criterion.
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
        """Multiply the weak filters by the factor, or drop them if they are not recoverable."""
        weak = self._weak(epoch)
        if not self._settings.recoverable:
            self._drop(weak)
            return
        factor = self._settings.factor * FACTOR_SCHEDULES[self._settings.factor_schedule](epoch, self._epochs)
        for site, indices in zip(self._filters, weak, strict=True):
            attenuate_(site.weight, indices, factor)

    def finish(self) -> None:
        """Drop the weak filters, so that they output zero also after their BatchNorm.

        The BatchNorm statistics were measured with these filters, so they are recomputed.
        """
        self._drop(self._weak(self._epochs))
        if any(map(len, self._dropped)):
            self._learner.recalibrate()

    def _weak(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(derive(self._seed, "attenuation", self._peer, epoch))
        rate = self._settings.rate * RATE_SCHEDULES[self._settings.rate_schedule](epoch, self._epochs)
        all_scores = scores(self._filters, self._settings.criterion, generator)
        for site_scores, dropped in zip(all_scores, self._dropped, strict=True):
            site_scores[dropped] = -torch.inf  # dropped filters count towards the rate, before any other
        return [weakest(site_scores, rate) for site_scores in all_scores]

    def _drop(self, weak: list[Tensor]) -> None:
        self._dropped = weak
        for site, indices in zip(self._filters, weak, strict=True):
            site.drop_(indices)
        mask_dropped(self._learner, self._filters, weak)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the indices of the dropped filters, by the name of their site."""
        return {
            site.site.name: dropped for site, dropped in zip(self._filters, self._dropped, strict=True) if len(dropped)
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned, and mask the gradients of the dropped filters again."""
        self._dropped = [
            tensors.get(site.site.name, torch.empty(0, dtype=torch.int64)).to(site.weight.device)
            for site in self._filters
        ]
        mask_dropped(self._learner, self._filters, self._dropped)
