"""External grafting: at a round's end each site of a receiver, or each filter, is blended with the donor's.

A snapshot is a peer's weights with their entropies, in numpy arrays, which travel between processes without being
copied or pickled. `Grafting` knows which alpha each stretch of the flat buffer takes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftpop.exchange.assignment import released_assignment, site_assignment
from graftpop.ops.alpha import adaptive_alpha, fixed_alpha
from graftpop.ops.entropy import filter_entropies, layer_entropies
from graftpop.ops.graft import blend
from graftpop.ops.importance import filter_l1_norms, num_invalid_filters
from graftpop.ops.released import released_alpha, released_blend, released_entropies, released_integer_blend
from graftpop.settings import GraftSettings
from graftpop.training.flat_state import Entry, FlatState
from graftpop.training.sites import Site
from graftpop.training.snapshot import ALL_OTHERS, Snapshot

__all__ = ["Grafting"]


class _Stretch(NamedTuple):
    """A part of the flat buffer, cut into as many equal parts as there are units whose alpha they take in turn."""

    offset: int
    numel: int
    unit: int
    num_units: int


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
        self._measured = state.rows_of(state.buffer, self._plan.measured)
        self._stretches = self._joined(map(self._stretch_of, state.entries))

    def _stretch_of(self, entry: Entry) -> "_Stretch":
        """Return which units a tensor takes its alpha from.

        Units are counted over the sites: S sites come first, as a whole, and then the filters of each.
        """
        site = self._plan.site_of[entry.name]
        of_filter = self._settings.level == "filter"
        if of_filter and entry.name.rpartition(".")[0] in self._plan.modules_of[site]:
            first = len(self._measured) + sum(map(len, self._measured[:site]))
            return _Stretch(entry.offset, entry.numel, first, len(self._measured[site]))
        return _Stretch(entry.offset, entry.numel, site, 1)

    @staticmethod
    def _joined(stretches: "Iterable[_Stretch]") -> "list[_Stretch]":
        """Join stretches that lie side by side and follow one unit."""
        joined: list[_Stretch] = []
        for stretch in stretches:
            if joined and stretch.num_units == joined[-1].num_units == 1 and stretch.unit == joined[-1].unit:
                joined[-1] = joined[-1]._replace(numel=joined[-1].numel + stretch.numel)
            else:
                joined.append(stretch)
        return joined

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
        """Return the weights with their entropies and what they predicted, to be copied before they change.

        On a CPU its arrays are the weights themselves.
        """
        integers = [tensor.flatten() for tensor in self._state.integers.values()]
        return Snapshot(
            peer=peer,
            weights=self._state.buffer.detach().cpu().numpy(),
            integers=torch.cat(integers).cpu().numpy() if integers else np.empty(0, np.int64),
            entropies=entropies.cpu().numpy(),
            predicted=predicted.cpu().numpy(),
        )

    def merged(self, snapshots: Sequence[Snapshot]) -> Snapshot:
        """Return the mean of some snapshots as one, whose entropies are the mean weights' own; of one, itself."""
        if len(snapshots) == 1:
            return snapshots[0]
        mean = torch.stack([_tensor(snapshot.weights) for snapshot in snapshots]).mean(0)
        rows = self._state.rows_of(mean, self._plan.measured)
        return replace(snapshots[0], peer=ALL_OTHERS, weights=mean.numpy(), entropies=self._entropies(rows).numpy())

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
        of_filters = [
            self._share(score(weight, settings.num_bins), score(their_weight, settings.num_bins))
            for weight, their_weight in zip(self._measured, self._of(donor), strict=True)
        ]
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
        return self._state.rows_of(buffer, self._plan.measured)

    def graft_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend a donor's weights into this peer's, with the shares that `alpha` returned. Momentum is not touched."""
        weights = _tensor(donor.weights).to(self._state.buffer.device)
        for offset, numel, unit, num_units in self._stretches:  # each is read and written while it is in the cache
            share = alpha[unit : unit + num_units, None]
            own, theirs = (
                buffer[offset : offset + numel].view(num_units, -1) for buffer in (self._state.buffer, weights)
            )
            if self._released:
                own.copy_(released_blend(own, theirs, share))
            else:
                blend(own, theirs, share, out=own)
        if self._released:
            self._graft_integers_(alpha, donor)

    def copy_from_(self, donor: Snapshot) -> None:
        """Take a donor's weights and integer buffers in place of one's own."""
        self._state.buffer.copy_(_tensor(donor.weights))
        for _, tensor, theirs in self._integers_of(donor):
            tensor.copy_(theirs)

    def _graft_integers_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend the integer buffers; one (`bn1.num_batches_tracked`) follows the site of the tensors beside it."""
        site_of_module = {name.rpartition(".")[0]: site for name, site in self._plan.site_of.items()}
        for name, tensor, theirs in self._integers_of(donor):
            tensor.copy_(
                released_integer_blend(tensor, theirs.to(tensor.device), alpha[site_of_module[name.rpartition(".")[0]]])
            )

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
