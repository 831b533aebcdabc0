"""External grafting: at the end of a round, each site or filter of a receiver is blended with the donor's weights.

`Grafting` maps each stretch of the flat buffer to its alpha, so a graft is one interpolation per stretch.
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
    """A part of the flat buffer, divided equally among consecutive units whose alphas its parts take."""

    offset: int
    numel: int
    unit: int
    num_units: int


class Grafting:
    """One peer's side of an exchange: it publishes a snapshot and blends a donor's snapshot into its weights.

    Each unit has its own alpha, from the scores of the receiver's and the donor's unit. A unit is a site, or at filter
    level one filter of a site.

    Args:
        state: the peer's tensors.
        sites: the sites of its network; without any, there is nothing to measure, and `graft_` changes nothing.
        settings: the section `graft`; None to measure and publish only.
    """

    def __init__(self, state: FlatState, sites: list[Site], settings: GraftSettings | None) -> None:
        self._state = state
        self._settings = settings or GraftSettings()
        self._released = self._settings.compat == "released_code"
        names = [entry.name for entry in state.entries]
        self._plan = released_assignment(names) if self._released else site_assignment(names, sites)
        self._measured = state.rows_of(state.buffer, self._plan.measured)
        self._stretches = self._joined(map(self._stretch_of, state.entries)) if self._measured else []

    def _stretch_of(self, entry: Entry) -> "_Stretch":
        """Return the stretch of a tensor with the units that give its alphas.

        Units are numbered: first the S sites, then the filters of each site.
        """
        site = self._plan.site_of[entry.name]
        of_filter = self._settings.level == "filter"
        if of_filter and entry.name.rpartition(".")[0] in self._plan.modules_of[site]:
            first = len(self._measured) + sum(map(len, self._measured[:site]))
            return _Stretch(entry.offset, entry.numel, first, len(self._measured[site]))
        return _Stretch(entry.offset, entry.numel, site, 1)

    @staticmethod
    def _joined(stretches: "Iterable[_Stretch]") -> "list[_Stretch]":
        """Join adjacent stretches of the same unit."""
        joined: list[_Stretch] = []
        for stretch in stretches:
            if joined and stretch.num_units == joined[-1].num_units == 1 and stretch.unit == joined[-1].unit:
                joined[-1] = joined[-1]._replace(numel=joined[-1].numel + stretch.numel)
            else:
                joined.append(stretch)
        return joined

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the sites in the records."""
        return self._plan.site_names

    def entropies(self) -> Tensor:
        """Return the current entropy of every site, (S,) float64, nats."""
        return self._entropies(self._measured)

    def _entropies(self, weights: list[Tensor]) -> Tensor:
        if not weights:
            return torch.empty(0, dtype=torch.float64)
        measure = released_entropies if self._released else layer_entropies
        return measure(weights, self._settings.num_bins)

    def num_invalid_filters(self) -> Tensor:
        """Return the current number of invalid filters of every site, (S,) int64."""
        if not self._measured:
            return torch.empty(0, dtype=torch.int64)
        return torch.stack([num_invalid_filters(weight) for weight in self._measured])

    def publish(self, peer: int, entropies: Tensor, predicted: Tensor) -> Snapshot:
        """Return a snapshot of the weights with their entropies (S,) and predictions (V,).

        Copy it before the weights change: on a CPU its arrays share their memory.
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
        """Return the mean of some snapshots with the entropies of the mean weights; a single snapshot unchanged."""
        if len(snapshots) == 1:
            return snapshots[0]
        mean = torch.stack([_tensor(snapshot.weights) for snapshot in snapshots]).mean(0)
        rows = self._state.rows_of(mean, self._plan.measured)
        return replace(snapshots[0], peer=ALL_OTHERS, weights=mean.numpy(), entropies=self._entropies(rows).numpy())

    def alpha(self, own: Tensor, donor: Snapshot) -> Tensor:
        """Return alpha by unit, float64: for the S sites, at filter level followed by their filters.

        At filter level a site's alpha is the mean of its filters' alphas; tensors outside of filters take it.

        Args:
            own: the receiver's entropies, (S,) float64, nats.
            donor: the donor's snapshot.
        """
        settings = self._settings
        if settings.level == "layer" or not self._measured:
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
        """Return the measured tensors of a snapshot, one per site, (O, rest)."""
        buffer = _tensor(snapshot.weights).to(self._state.buffer.device)
        return self._state.rows_of(buffer, self._plan.measured)

    def graft_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend a donor's weights into this peer's, with the alphas from `alpha`. Momentum does not change."""
        weights = _tensor(donor.weights).to(self._state.buffer.device)
        for offset, numel, unit, num_units in self._stretches:  # one at a time, while it is in the cache
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
        """Copy a donor's weights and integer buffers."""
        self._state.buffer.copy_(_tensor(donor.weights))
        for _, tensor, theirs in self._integers_of(donor):
            tensor.copy_(theirs)

    def _graft_integers_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend the integer buffers; each (`bn1.num_batches_tracked`) follows the site of its module."""
        site_of_module = {name.rpartition(".")[0]: site for name, site in self._plan.site_of.items()}
        for name, tensor, theirs in self._integers_of(donor):
            tensor.copy_(
                released_integer_blend(tensor, theirs.to(tensor.device), alpha[site_of_module[name.rpartition(".")[0]]])
            )

    def _integers_of(self, donor: Snapshot) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, own tensor and donor's tensor of each integer buffer."""
        own = self._state.integers
        parts = _tensor(donor.integers).split([tensor.numel() for tensor in own.values()])
        for (name, tensor), part in zip(own.items(), parts, strict=True):
            yield name, tensor, part.view_as(tensor)


def _total_norms(weights: Sequence[Tensor]) -> Tensor:
    """Return the L1 norm of each layer, (L,) float64."""
    return torch.stack(torch._foreach_norm(list(weights), 1)).double()


_FILTER_SCORES: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = {
    "entropy": filter_entropies,
    "l1": lambda weight, _: filter_l1_norms(weight).double(),
}


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor that shares a read-only array's memory, without torch's warning about writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
