"""Gated pruning: a few units are dropped at a time, between epochs in which only the gates train.

    tock     `tock_epochs` epochs: everything trains, with `sparsity` * sum of |gate| in the loss
    tick     `ticks` times: one epoch in which only gates, shifts and the output layer train; then the units with the
             lowest scores are dropped
    ...      tocks and ticks alternate; the last share of the epochs trains the remaining network

A gate is the scale of a unit's normalization. With the criterion `taylor` the score of a unit is summed over the steps
of the tick's epoch, so it costs nothing.

References:
    You, Yan, Ye, Ma, Wang, Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
    Networks, NeurIPS 2019, and its released code, github.com/youzhonghui/gate-decorator-pruning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graftpop.hooks.data_criteria import gate_products
from graftpop.hooks.gated_phases import phases_of
from graftpop.hooks.pruning import Pruning
from graftpop.hooks.pruning_plan import PruningPlan
from graftpop.settings import PruningSettings
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

__all__ = ["GatedPruning"]

TOTAL = "total/"  # prefix of the scores in the state


class GatedPruning(Pruning):
    """Gated pruning of the units of one network; arguments as for `Pruning`."""

    def __init__(
        self,
        learner: Learner,
        filters: Sequence[SiteFilters],
        settings: PruningSettings,
        plan: PruningPlan,
        **others: Any,
    ) -> None:
        super().__init__(learner, filters, settings, plan, **others)
        self._phases = phases_of(settings, self._epochs)
        self._totals = {
            index: torch.zeros(site.num_filters, device=site.weight.device) for index, site in self._grouped.items()
        }
        names = {part.tensor for site in filters for part in site.dropped_parts}
        gates = {entry.part.tensor for site in filters for entry in site.site.entries if entry.role == "scale"}
        shifts = {entry.part.tensor for site in filters for entry in site.site.entries if entry.role == "shift"}
        self._gates = [learner.network.get_parameter(name) for name in sorted(gates)]
        self._frozen = [learner.network.get_parameter(name) for name in sorted(names - gates - shifts)]
        learner.before_step.append(self._before_step)

    def _before_step(self) -> None:
        phase = self._phases.of(self._learner.epoch)
        if phase == "tick":
            products_of_sites = gate_products(self._learner, list(self._grouped.values()))
            for total, products in zip(self._totals.values(), products_of_sites, strict=True):
                total += products.abs()
            for parameter in self._frozen:
                parameter.grad = None
        elif phase == "tock" and self._settings.sparsity:
            for gate in self._gates:
                if gate.grad is not None:
                    gate.grad.add_(gate.detach().sign(), alpha=self._settings.sparsity)

    def before_epoch(self, epoch: int) -> None:
        """Drop some units after a tick, and keep all dropped ones at zero."""
        self._drop(self._weak(epoch) if self._phases.of(epoch - 1) == "tick" else self._dropped)
        self.restart()

    def _scores(self, epoch: int) -> Mapping[int, Tensor]:
        return self._totals if self._method.criterion == "taylor" else super()._scores(epoch)

    def _amount(self, epoch: int) -> float:
        return self._phases.num_ticks(epoch) / self._phases.num_ticks(self._phases.last)

    def finish(self) -> None:
        """Drop units if the last epoch was a tick, and recompute the BatchNorm statistics."""
        if self._phases.of(self._epochs - 1) == "tick":
            self._drop(self._weak(self._epochs))
        super().finish()

    def restart(self) -> None:
        """Discard the scores of earlier steps."""
        for total in self._totals.values():
            total.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the indices of the dropped units, and the scores of this epoch's steps, by the name of their site."""
        totals = {f"{TOTAL}{self._grouped[index].site.name}": total for index, total in self._totals.items()}
        return super().state_dict() | totals

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned, and mask the gradients of the dropped units again."""
        for index, total in self._totals.items():
            total.copy_(tensors[f"{TOTAL}{self._grouped[index].site.name}"])
        super().load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(TOTAL)})
