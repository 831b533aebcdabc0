"""Variations of grafting as user-defined exchange rules, for `saturated_variations.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from graftpop.exchange.grafting import Grafting
from graftpop.exchange.rule import ExchangeContext
from graftpop.settings import GraftSettings
from graftpop.training.snapshot import ALL_OTHERS, Snapshot

__all__ = ["FadingGrafting", "MomentumGrafting"]


class StudyGrafting(Grafting):
    """Grafting with the constants of the variant `graft`."""

    def __init__(self, context: ExchangeContext) -> None:
        graft = GraftSettings(A=0.4, c=100.0)
        super().__init__(replace(context, settings=context.settings.model_copy(update={"graft": graft})))


class FadingGrafting(StudyGrafting):
    """Grafting whose A falls with the learning rate: wide early, an average by 1/2 at the end."""

    def alpha(self, their_entropies: Tensor, theirs: Tensor, donor: int = ALL_OTHERS) -> Tensor:
        """Return 1/2 + lr_t / lr_0 * (alpha - 1/2)."""
        return 0.5 + self.context.lr_ratio() * (super().alpha(their_entropies, theirs, donor) - 0.5)


class MomentumGrafting(StudyGrafting):
    """Grafting that blends the optimizer's momentum by the same alphas as the weights."""

    def publish(self) -> Mapping[str, Tensor]:
        """Return the momentum as one flat tensor (N,), 0 where there is none."""
        return {"momentum": self._momentum()}

    def receive(self, donors: Sequence[Snapshot]) -> None:
        """Blend the weights and the momentum."""
        (donor,) = donors
        self._theirs = torch.from_numpy(donor.published["momentum"]).to(self.weights.device)
        super().receive(donors)

    def graft_(self, alpha: Tensor, theirs: Tensor) -> None:
        """Blend the donor's weights (N,), and its momentum."""
        super().graft_(alpha, theirs)
        momentum = self._momentum()
        self.blend_(momentum, self._theirs, alpha)
        for entry in self._state.entries:
            own_momentum = self.context.momentum(entry.name) if entry.is_parameter else None
            if own_momentum is not None:
                own_momentum.copy_(self._state.view_of(momentum, entry.name))

    def _momentum(self) -> Tensor:
        flat = torch.zeros_like(self.weights)
        for entry in self._state.entries:
            momentum = self.context.momentum(entry.name) if entry.is_parameter else None
            if momentum is not None:
                self._state.view_of(flat, entry.name).copy_(momentum)
        return flat
