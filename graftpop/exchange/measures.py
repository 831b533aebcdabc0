"""Measures of the sites of a network, on the peer's own weights or on a donor's."""

import torch
from torch import Tensor

from graftpop.exchange.assignment import Assignment
from graftpop.ops.criteria import Filters
from graftpop.ops.entropy import layer_entropies
from graftpop.ops.importance import num_invalid_filters
from graftpop.ops.released import released_entropies
from graftpop.training.filters import filters_of_units
from graftpop.training.flat_state import FlatState, Stretch

__all__ = ["SiteMeasures"]


class SiteMeasures:
    """Entropies and invalid filters of the sites of one network.

    Args:
        state: the tensors of the network.
        assignment: its sites; without any, there is nothing to measure.
        num_bins: number of bins of the entropies.
        released: measure as the papers' released code does.

    Attributes:
        site_names: names of the sites in the records.
        entropies: entropy of every site when it was last measured, (S,) float64, nats.
        num_invalid_filters: number of invalid filters of every site then, (S,) int64.
    """

    def __init__(self, state: FlatState, assignment: Assignment, *, num_bins: int, released: bool = False) -> None:
        self._state, self._num_bins, self._released = state, num_bins, released
        self._stretches = [state.stretch(weight.part, weight.num_units) for weight in assignment.weights]
        self._norms = [
            [None if part is None else state.stretch(part, weight.num_units) for part in norm]
            for weight, norm in zip(assignment.weights, assignment.norms, strict=True)
        ]
        self.site_names = assignment.site_names
        self.update()

    def weights_in(self, buffer: Tensor) -> list[Tensor]:
        """Return the weights of every site in a buffer of the network's layout, each (U, ...), one entry per unit."""
        views = [self._state.memory_of(buffer, stretch) for stretch in self._stretches]
        return [view[0] if len(view) == 1 else view.movedim(1, 0) for view in views]

    def filters_in(self, buffer: Tensor) -> list[Filters]:
        """Return the units of every site in a buffer, with the normalization after them, for a criterion."""
        return [
            filters_of_units(weight, *(self._entries_in(buffer, stretch) for stretch in norm))
            for weight, norm in zip(self.weights_in(buffer), self._norms, strict=True)
        ]

    def _entries_in(self, buffer: Tensor, stretch: Stretch | None) -> Tensor | None:
        return None if stretch is None else self._state.memory_of(buffer, stretch)[0]

    def update(self) -> None:
        """Measure the network's own weights again."""
        self.entropies = self.entropies_in(self._state.buffer)
        self.num_invalid_filters = self.num_invalid_in(self._state.buffer)

    def entropies_in(self, buffer: Tensor) -> Tensor:
        """Return the entropy of every site in a buffer, (S,) float64, nats."""
        weights = self.weights_in(buffer)
        if not weights:
            return torch.empty(0, dtype=torch.float64, device=buffer.device)
        measure = released_entropies if self._released else layer_entropies
        return measure(weights, self._num_bins)

    def num_invalid_in(self, buffer: Tensor) -> Tensor:
        """Return the number of invalid filters of every site in a buffer, (S,) int64."""
        weights = self.weights_in(buffer)
        if not weights:
            return torch.empty(0, dtype=torch.int64, device=buffer.device)
        return torch.stack([num_invalid_filters(weight) for weight in weights])
