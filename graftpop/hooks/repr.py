"""RePr: drop redundant filters for some epochs, then revive them with weights orthogonal to the others.

    N times:  train the whole network for S1 epochs
              drop the share `rate` of all filters with the lowest scores, ranked over all layers together
              train the rest for S2 epochs
              revive the dropped filters, with weights orthogonal to the kept filters and to their own old weights

References:
    Prakash, Storer, Florencio, Zhang, RePr: Improved Training of Convolutional Filters, CVPR 2019.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftpop.hooks.hook import Hook
from graftpop.hooks.ranking import ranked, scores
from graftpop.ops.orthogonal import orthogonal_filters
from graftpop.seeds import derive
from graftpop.settings import ReprSettings
from graftpop.training.filters import SiteFilters, mask_dropped
from graftpop.training.learner import Learner

__all__ = ["RePr"]


class RePr(Hook):
    """The cycles of RePr on one network.

    Args:
        learner: the learner that trains the network.
        filters: filters of every site, in module order.
        settings: lengths and number of the cycles, rate and criterion.
        seed: the study's seed.
        peer: index of the peer; seeds the new weights and the random criterion.
    """

    name = "repr"

    def __init__(
        self, learner: Learner, filters: Sequence[SiteFilters], settings: ReprSettings, *, seed: int, peer: int
    ) -> None:
        self._learner, self._settings = learner, settings
        self._filters = ranked(filters, skip_first=settings.skip_first)
        self._seed, self._peer = seed, peer
        self._forget()

    def _forget(self) -> None:
        self._dropped = [torch.empty(0, dtype=torch.int64, device=site.weight.device) for site in self._filters]
        self._old_weights = [site.weight[:0].clone() for site in self._filters]

    def before_epoch(self, epoch: int) -> None:
        """Drop filters S1 epochs into a cycle, keep them at zero for S2 epochs, then revive them."""
        cycle, place = divmod(epoch, self._settings.S1 + self._settings.S2)
        if cycle < self._settings.N and place == self._settings.S1:
            self._drop(epoch)
        elif place == 0 and any(map(len, self._dropped)):
            self._revive(epoch)
        else:
            self._keep_dropped()

    def _drop(self, epoch: int) -> None:
        layer_scores = scores(self._learner, self._filters, self._settings.criterion, self._seed_of("ranking", epoch))
        self._dropped = lowest_of_all(layer_scores, self._settings.rate)
        self._old_weights = [
            site.weight[dropped].clone() for site, dropped in zip(self._filters, self._dropped, strict=True)
        ]
        self._keep_dropped()
        mask_dropped(self._learner, self._filters, self._dropped)

    def _keep_dropped(self) -> None:
        for site, dropped in zip(self._filters, self._dropped, strict=True):
            site.drop_(dropped)  # an exchange may have overwritten the zeros

    def _revive(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(self._seed_of("directions", epoch))
        for site, dropped, old in zip(self._filters, self._dropped, self._old_weights, strict=True):
            if len(dropped):
                kept = torch.ones(site.num_filters, dtype=torch.bool, device=site.weight.device)
                kept[dropped] = False
                site.revive_(dropped, orthogonal_filters(old, site.weight[kept], generator))
        self._forget()
        self._learner.mask_gradients({})

    def _seed_of(self, purpose: str, epoch: int) -> int:
        return derive(self._seed, "repr", purpose, self._peer, epoch)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the indices and the old weights of the dropped filters, by the name of their site."""
        return {
            f"{site.site.name}/{key}": tensor
            for site, dropped, old in zip(self._filters, self._dropped, self._old_weights, strict=True)
            for key, tensor in (("dropped", dropped), ("old", old))
            if len(dropped)
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned, and mask the gradients of the dropped filters again."""
        self._forget()
        for index, site in enumerate(self._filters):
            if (dropped := tensors.get(f"{site.site.name}/dropped")) is not None:
                self._dropped[index] = dropped.to(site.weight.device)
                self._old_weights[index] = tensors[f"{site.site.name}/old"].to(site.weight)
        mask_dropped(self._learner, self._filters, self._dropped)


def lowest_of_all(layer_scores: Sequence[Tensor], rate: float) -> list[Tensor]:
    """Return the filters with the lowest scores over all layers together, ties in layer order.

    The best filter of each layer is never returned, whatever its score.

    Args:
        layer_scores: scores of the filters, one tensor (O) per layer.
        rate: share of all filters, in [0, 1); the number of filters is rounded down.

    Returns:
        Indices of filters, ascending, one int64 tensor per layer.
    """
    protected = []
    for scores_O in layer_scores:
        scores_O = scores_O.clone()
        scores_O[scores_O.argmax()] = torch.inf
        protected.append(scores_O)
    all_scores = torch.cat(protected)
    # 0.29 * 100 is 28.999999999999996
    num_dropped = min(int(rate * len(all_scores) + 1e-9), len(all_scores) - len(layer_scores))
    is_dropped = torch.zeros(len(all_scores), dtype=torch.bool, device=all_scores.device)
    is_dropped[all_scores.argsort(stable=True)[:num_dropped]] = True
    return [part.nonzero().flatten() for part in is_dropped.split([len(scores_O) for scores_O in layer_scores])]
