"""Alignment by weight matching: a donor's units are permuted to match the receiver's before a rule gets the donor.

Networks that were trained separately compute similar features in different orders. For the permutations P of all groups
of channels,

    maximize   <w, P w_donor>    over the parameters w of the receiver

by coordinate descent: given the permutations of the other groups, that of one group is an assignment problem. Sweeps
over the groups in module order end when none changes, or after MOST_SWEEPS. The running statistics of BatchNorm are
permuted too, but do not enter the sum. The result is never less similar than the donor before.

References:
    Ainsworth, Hayase, Srinivasa, Git Re-Basin, 2022, arXiv:2209.04836, Algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from graftpop.exchange.rule import ExchangeRule
from graftpop.ops.matching import best_matching
from graftpop.sites import ChannelGroup
from graftpop.sites.channel_groups import permute_
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

__all__ = ["Alignment", "receive_aligned"]

MOST_SWEEPS: Final = 50
LEAST_GAIN: Final = 1e-6  # relative to the largest similarity of two units; smaller gains are rounding errors


class Alignment:
    """Matches the units of other networks to those of one.

    Args:
        state: the tensors of the receiver's network.
        groups: its groups of channels.
    """

    def __init__(self, state: FlatState, groups: Sequence[ChannelGroup]) -> None:
        self._state = state
        device = state.buffer.device
        self._groups = [
            replace(group, places=tuple(place._replace(positions=place.positions.to(device)) for place in group.places))
            for group in groups
        ]
        self._parameters = {entry.name for entry in state.entries if entry.is_parameter}
        trained = [[place.tensor for place in group.places if place.tensor in self._parameters] for group in groups]
        self._has_two_axes = [len({*names}) < len(names) for names in trained]  # a group on two axes of one tensor
        self._neighbors = [
            {
                other
                for other, names in enumerate(trained)
                if {*own} & {*names} and (other != index or self._has_two_axes[index])
            }
            for index, own in enumerate(trained)
        ]

    def align(self, donor: Snapshot) -> tuple[Snapshot, float]:
        """Return a donor's snapshot with its units permuted, and the share of its units that changed places."""
        theirs = donor.weights_on(self._state.buffer.device).clone()
        moved = self.align_(theirs)
        return replace(donor, weights=theirs.cpu().numpy()), moved

    def align_(self, theirs: Tensor) -> float:
        """Permute a donor's weights (N,) in place, and return the share of its units that changed places.

        A group stays as it is if weights of its units are not finite.
        """
        tensors = {entry.name: self._state.view_of(theirs, entry.name) for entry in self._state.entries}
        own = [self._units(self._state.buffer, group) for group in self._groups]
        unmoved = [torch.arange(group.num_units, device=theirs.device) for group in self._groups]
        orders = list(unmoved)
        pending = set(range(len(orders)))
        for _ in range(MOST_SWEEPS):
            for index, group in enumerate(self._groups):
                if index not in pending:
                    continue
                pending.discard(index)
                similarity = own[index] @ self._units(theirs, group).T
                if not similarity.isfinite().all():
                    continue
                order = best_matching(similarity)
                gains = similarity.gather(1, order[:, None])[:, 0] - similarity.diagonal()
                if gains.sum() <= LEAST_GAIN * similarity.abs().max():
                    continue
                before = self._product(theirs) if self._has_two_axes[index] else None
                permute_(tensors, group, order)
                if before is not None and self._product(theirs) <= before:
                    permute_(tensors, group, order.argsort())
                    continue
                orders[index] = orders[index][order]
                pending |= self._neighbors[index]
            if not pending:
                break
        return float(torch.cat(orders).ne(torch.cat(unmoved)).double().mean())

    def _units(self, buffer: Tensor, group: ChannelGroup) -> Tensor:
        """Return the parameters of each unit of a group in a buffer, (U, M)."""
        rows = []
        for name, axis, positions in group.places:
            if name in self._parameters:
                view = self._state.view_of(buffer, name).movedim(axis, 0)
                rows.append(view[positions.flatten()].reshape(group.num_units, -1))
        return torch.cat(rows, 1)

    def _product(self, theirs: Tensor) -> float:
        """Return the scalar product of the receiver's parameters and those of a donor (N,)."""
        spans = [slice(entry.offset, entry.offset + entry.numel) for entry in self._state.entries if entry.is_parameter]
        return sum(float(self._state.buffer[span].double() @ theirs[span].double()) for span in spans)


def receive_aligned(rule: ExchangeRule, donors: Sequence[Snapshot], alignment: Alignment | None) -> dict[str, float]:
    """Align the donors, change a peer's weights by its rule, and return the rule's figures.

    With an alignment the figures include `align_moved`, the mean over the donors of the share of units that changed
    places. A peer that is among its own donors is not aligned.
    """
    if alignment is None:
        return dict(rule.receive(donors) or {})
    aligned = {donor.peer: alignment.align(donor) for donor in donors if donor.peer != rule.context.peer}
    figures = dict(rule.receive([aligned.get(donor.peer, (donor,))[0] for donor in donors]) or {})
    moved = [share for _, share in aligned.values()]
    return figures | ({"align_moved": sum(moved) / len(moved)} if moved else {})
