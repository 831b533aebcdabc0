"""RePr: filters that repeat what others do are dropped for a while, and come back orthogonal to all that is there.

    N times:  S1 epochs of the whole network
              drop the share `rate` of all filters with the lowest score, ranked over all layers together
              S2 epochs of the rest
              new weights for the dropped filters, orthogonal to the kept ones and to their own old values

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
        learner: whose network it is.
        filters: of every site, in module order.
        settings: of the cycles.
        seed: the study's.
        peer: whose random directions they are.
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
        self._dropped = [torch.empty(0, dtype=torch.int64)] * len(self._filters)
        self._old_weights = [site.weight[:0].clone() for site in self._filters]

    def before_epoch(self, epoch: int) -> None:
        """Drop filters S1 epochs into a cycle, keep them dropped for S2 epochs, and give them back at its end."""
        cycle, place = divmod(epoch, self._settings.S1 + self._settings.S2)
        if cycle < self._settings.N and place == self._settings.S1:
            self._drop(epoch)
        elif place == 0 and any(map(len, self._dropped)):
            self._give_back(epoch)
        else:
            self._keep_dropped()

    def _drop(self, epoch: int) -> None:
        found = scores(self._filters, self._settings.criterion, self._generator("ranking", epoch))
        self._dropped = lowest_of_all(found, self._settings.rate)
        self._old_weights = [
            site.weight[dropped].clone() for site, dropped in zip(self._filters, self._dropped, strict=True)
        ]
        self._keep_dropped()
        mask_dropped(self._learner, self._filters, self._dropped)

    def _keep_dropped(self) -> None:
        for site, dropped in zip(self._filters, self._dropped, strict=True):
            site.drop_(dropped)  # an exchange may have brought them back

    def _give_back(self, epoch: int) -> None:
        generator = self._generator("directions", epoch)
        for site, dropped, old in zip(self._filters, self._dropped, self._old_weights, strict=True):
            if len(dropped):
                kept = torch.ones(site.num_filters, dtype=torch.bool, device=site.weight.device)
                kept[dropped] = False
                site.revive_(dropped, orthogonal_filters(old, site.weight[kept], generator))
        self._forget()
        self._learner.mask_gradients({})

    def _generator(self, purpose: str, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self._seed, "repr", purpose, self._peer, epoch))

    def state_dict(self) -> dict[str, Tensor]:
        """Return which filters are dropped, and what they were."""
        return {
            f"{site.site.conv}/{what}": tensor
            for site, dropped, old in zip(self._filters, self._dropped, self._old_weights, strict=True)
            for what, tensor in (("dropped", dropped), ("old", old))
            if len(dropped)
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._forget()
        for index, site in enumerate(self._filters):
            if (dropped := tensors.get(f"{site.site.conv}/dropped")) is not None:
                self._dropped[index] = dropped.to(site.weight.device)
                self._old_weights[index] = tensors[f"{site.site.conv}/old"].to(site.weight)
        mask_dropped(self._learner, self._filters, self._dropped)


def lowest_of_all(of_layers: Sequence[Tensor], rate: float) -> list[Tensor]:
    """Return the filters with the lowest scores of all layers together, never all of one layer.

    The best filter of each layer stays, whatever the others' scores.

    Args:
        of_layers: their scores, one tensor (O) a layer.
        rate: share of all filters, in [0, 1).

    Returns:
        Indices of filters, ascending, one int64 tensor a layer.
    """
    protected = []
    for of_layer in of_layers:
        of_layer = of_layer.clone()
        of_layer[of_layer.argmax()] = torch.inf
        protected.append(of_layer)
    everyone = torch.cat(protected)
    num_dropped = min(int(rate * len(everyone) + 1e-9), len(everyone) - len(of_layers))
    is_dropped = torch.zeros(len(everyone), dtype=torch.bool, device=everyone.device)
    is_dropped[everyone.argsort(stable=True)[:num_dropped]] = True
    return [part.nonzero().flatten() for part in is_dropped.split([len(of_layer) for of_layer in of_layers])]
