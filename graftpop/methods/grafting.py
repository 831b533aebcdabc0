"""External grafting: at a round's end each site of a receiver, or each filter, is blended with the donor's.

A snapshot is a peer's weights with their entropies, in numpy arrays, which travel between processes without being
copied or pickled. `Grafting` knows which alpha each stretch of the flat buffer takes.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftpop.learner.flat import Entry, FlatState
from graftpop.learner.sites import Site
from graftpop.methods.assignment import released_assignment, site_assignment
from graftpop.ops.alpha import adaptive_alpha, fixed_alpha
from graftpop.ops.entropy import filter_entropies, layer_entropies
from graftpop.ops.graft import blend
from graftpop.ops.importance import filter_l1_norms, num_invalid_filters
from graftpop.ops.released import (
    released_alpha,
    released_blend,
    released_entropies,
    released_integer_blend,
)
from graftpop.settings import GraftSettings

__all__ = ["ALL_OTHERS", "Grafting", "Snapshot"]

ALL_OTHERS = -1
"""In place of a peer's number: the mean of several peers."""


@dataclass(frozen=True)
class Snapshot:
    """A peer's weights as published for one exchange.

    Attributes:
        peer: whose they are, or ALL_OTHERS.
        weights: (N,) float32, the flat buffer.
        integers: (I,) int64, the integer buffers one after the other.
        entropies: (S,) float64, nats, one a site.
        predicted: (V,) int64, the classes it gave the validation images.
    """

    peer: int
    weights: NDArray[np.float32]
    integers: NDArray[np.int64]
    entropies: NDArray[np.float64]
    predicted: NDArray[np.int64]


class Grafting:
    """What one peer does in an exchange: publish a snapshot, and blend a donor's into itself.

    Alpha is decided unit by unit, from a score of the receiver's unit and the donor's: a unit is a site, or at filter
    level one filter of a site.

    Args:
        state: the peer's tensors.
        sites: the sites of its network.
        settings: how to graft; None measures and publishes only.
    """

    def __init__(self, state: FlatState, sites: list[Site], settings: GraftSettings | None) -> None:
        self._state = state
        self._settings = settings or GraftSettings()
        self._released = self._settings.compat == "released_code"
        names = [entry.name for entry in state.entries]
        self._plan = released_assignment(names) if self._released else site_assignment(names, sites)
        self._measured = [state[name] for name in self._plan.measured]
        self._num_filters = [len(weight) for weight in self._measured]
        device = state.buffer.device
        of_filter = self._settings.level == "filter"
        units, lengths = zip(*(self._units_of(entry, of_filter=of_filter) for entry in state.entries), strict=True)
        self._units = torch.cat(units).to(device)
        self._lengths = torch.cat(lengths).to(device)

    def _units_of(self, entry: Entry, *, of_filter: bool) -> tuple[Tensor, Tensor]:
        """Return the units whose alpha the stretches of a tensor take, one after the other, and their lengths.

        Units are counted over the sites: S sites come first, as a whole, and then the filters of each.
        """
        site = self._plan.site_of[entry.name]
        num_filters = self._num_filters[site]
        if of_filter and entry.name.rpartition(".")[0] in self._plan.modules_of[site]:
            first = len(self._measured) + sum(self._num_filters[:site])
            return torch.arange(first, first + num_filters), torch.full((num_filters,), entry.numel // num_filters)
        return torch.tensor([site]), torch.tensor([entry.numel])

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites as the records call them."""
        return self._plan.site_names

    def entropies(self) -> Tensor:
        """Return the entropy of every site as it is now, (S,) float64, nats."""
        return self._entropies(self._measured)

    def _entropies(self, weights: list[Tensor]) -> Tensor:
        measure = released_entropies if self._released else layer_entropies
        return measure(weights, self._settings.num_bins)

    def num_invalid_filters(self) -> Tensor:
        """Return the number of invalid filters of every site as it is now, (S,) int64."""
        return torch.stack([num_invalid_filters(weight) for weight in self._measured])

    def publish(self, peer: int, entropies: Tensor, predicted: Tensor) -> Snapshot:
        """Return a copy of the weights as they are now, with their entropies and what they predicted."""
        integers = [tensor.flatten() for tensor in self._state.integers.values()]
        return Snapshot(
            peer=peer,
            weights=self._state.buffer.detach().cpu().numpy().copy(),
            integers=torch.cat(integers).cpu().numpy() if integers else np.empty(0, np.int64),
            entropies=entropies.cpu().numpy(),
            predicted=predicted.cpu().numpy(),
        )

    def merged(self, snapshots: Sequence[Snapshot]) -> Snapshot:
        """Return the mean of some snapshots as one, whose entropies are the mean weights' own; of one, itself."""
        if len(snapshots) == 1:
            return snapshots[0]
        mean = torch.stack([_tensor(snapshot.weights) for snapshot in snapshots]).mean(0)
        views = self._state.views_of(mean, self._plan.measured)
        return replace(snapshots[0], peer=ALL_OTHERS, weights=mean.numpy(), entropies=self._entropies(views).numpy())

    def alpha(self, own: Tensor, donor: Snapshot) -> Tensor:
        """Return the share that each unit keeps of itself, float64: of the S sites as a whole, then of their filters.

        At filter level a site's own is the mean of its filters'; it is what tensors take that belong to no filter.

        Args:
            own: the receiver's entropies, (S,) float64.
            donor: the donor's snapshot.
        """
        settings = self._settings
        if settings.level == "layer":
            theirs = _tensor(donor.entropies).to(own.device)
            if settings.criterion == "l1" and settings.alpha == "adaptive":
                own, theirs = _total_norms(self._measured), _total_norms(self._of(donor))
            return self._share(own, theirs)
        score = _FILTER_SCORES[settings.criterion]
        of_filters = [self._share(score(weight, settings.num_bins), score(their_weight, settings.num_bins))
                      for weight, their_weight in zip(self._measured, self._of(donor), strict=True)]
        return torch.cat([torch.stack([shares.mean() for shares in of_filters]), *of_filters])

    def _share(self, own: Tensor, theirs: Tensor) -> Tensor:
        settings = self._settings
        if settings.alpha != "adaptive":
            return fixed_alpha(own, settings.alpha)
        rule = released_alpha if self._released else adaptive_alpha
        return rule(own, theirs, A=settings.A, c=settings.c)

    def _of(self, snapshot: Snapshot) -> list[Tensor]:
        """Return the measured tensors of a snapshot."""
        buffer = _tensor(snapshot.weights).to(self._state.buffer.device)
        return self._state.views_of(buffer, self._plan.measured)

    def graft_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend a donor's weights into this peer's, with the shares that `alpha` returned. Momentum is not touched."""
        device = self._state.buffer.device
        per_weight = alpha[self._units].repeat_interleave(self._lengths, output_size=len(self._state.buffer))
        weights = _tensor(donor.weights).to(device)
        mix = released_blend if self._released else blend
        self._state.buffer.copy_(mix(self._state.buffer, weights, per_weight))
        if self._released:
            self._graft_integers_(alpha, donor)

    def become_(self, donor: Snapshot) -> None:
        """Take a donor's weights and integer buffers in place of one's own."""
        self._state.buffer.copy_(_tensor(donor.weights))
        for _, tensor, theirs in self._integers_of(donor):
            tensor.copy_(theirs)

    def _graft_integers_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend the integer buffers; one (`bn1.num_batches_tracked`) follows the site of the tensors beside it."""
        site_of_module = {name.rpartition(".")[0]: site for name, site in self._plan.site_of.items()}
        for name, tensor, theirs in self._integers_of(donor):
            tensor.copy_(released_integer_blend(tensor, theirs.to(tensor.device),
                                                alpha[site_of_module[name.rpartition(".")[0]]]))

    def _integers_of(self, donor: Snapshot) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of each integer buffer, the buffer, and the donor's."""
        own = self._state.integers
        parts = _tensor(donor.integers).split([tensor.numel() for tensor in own.values()])
        for (name, tensor), part in zip(own.items(), parts, strict=True):
            yield name, tensor, part.view_as(tensor)


def _total_norms(weights: Sequence[Tensor]) -> Tensor:
    """Return the L1 norm of each of many layers, (L,) float64."""
    return torch.stack(torch._foreach_norm(list(weights), 1)).double()


_FILTER_SCORES: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = {
    "entropy": filter_entropies,
    "l1": lambda weight, _: filter_l1_norms(weight).double(),
}


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor over an array that is only read; torch warns that it could be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
