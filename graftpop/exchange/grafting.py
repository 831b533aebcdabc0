"""External grafting: at the end of a round, each site or unit of a receiver is blended with the donor's weights.

Each site, or at filter level each unit of a site (a filter, a row, a head), has its own alpha, computed from its scores
in the receiver and in the donor. `Grafting` maps each stretch of the flat buffer to its alpha, so a graft is one
interpolation per stretch.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from graftpop.exchange.assignment import Assignment, released_assignment, site_assignment
from graftpop.exchange.measures import SiteMeasures
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import integers_of, mean_snapshot
from graftpop.ops.alpha import adaptive_alpha, fixed_alpha
from graftpop.ops.criteria import CRITERIA, Criterion
from graftpop.ops.entropy import filter_entropies
from graftpop.ops.graft import blend
from graftpop.ops.released import released_alpha, released_blend, released_integer_blend
from graftpop.rows import GraftColumns
from graftpop.seeds import derive
from graftpop.settings import GraftSettings
from graftpop.sites import Site
from graftpop.training.flat_state import FlatState, Stretch
from graftpop.training.snapshot import ALL_OTHERS, Snapshot, as_tensor

__all__ = ["AlphaRule", "Grafting", "assignment_of", "site_measures"]

AlphaRule = Callable[[Tensor, Tensor], Tensor]
"""Maps the scores of a receiver's units and those of its donor's, both (U,) float64, to alpha (U,), in [0, 1]."""


class _Stretch(NamedTuple):
    """A stretch of the buffer, and the first of the alphas of its units."""

    place: Stretch
    first: int


class Grafting(ExchangeRule):
    """Grafting of one peer's network: scores, alpha, blend.

    Args:
        context: the peer; its settings' section `graft` is used, and its user parts `graft.alpha` and
            `graft.criterion`.
    """

    def __init__(self, context: ExchangeContext) -> None:
        super().__init__(context)
        graft = self._settings = context.settings.graft or GraftSettings()
        self._state = context.state
        self._released = graft.compat == "released_code"
        assignment = assignment_of(context.state, context.sites, graft)
        self._measures = context.measures
        self._alpha_rule: AlphaRule = context.user_parts.get("graft.alpha") or _alpha_rule(graft)
        self._criterion: Criterion | None = context.user_parts.get("graft.criterion")
        if self._criterion is None and graft.criterion != "entropy":
            self._criterion = CRITERIA[graft.criterion]
        self._columns: GraftColumns | None = None
        self._stretches = list(_joined(_stretches(context.state, assignment, by_unit=graft.level == "filter")))
        self._site_of = {assigned.part.tensor.rpartition(".")[0]: assigned.site for assigned in assignment.parts}

    def receive(self, donors: Sequence[Snapshot]) -> None:
        """Blend a donor's snapshot, or the mean of several, into the weights; momentum does not change."""
        donor, measures = mean_snapshot(donors), self._measures
        theirs = donor.weights_on(self.weights.device)
        if len(donor.entropies):
            their_entropies = as_tensor(donor.entropies).to(theirs.device)
        else:  # the mean of several donors, or snapshots within a round
            their_entropies = measures.entropies_in(theirs)
        if self.context.settings.exchanges_in_steps:
            measures.update()
        alpha = self.alpha(their_entropies, theirs, donor.peer)
        self.graft_(alpha, theirs)
        if self._released:
            self._graft_integers_(alpha, donor)
        num_sites = len(measures.site_names)
        before, after = measures.num_invalid_filters, measures.num_invalid_in(self.weights)
        figures = [measures.entropies, their_entropies, alpha[:num_sites], before, after]
        # one transfer for all figures, because the host waits for the device at each
        entropies, donor_entropies, alphas, *counts = torch.stack([figure.double() for figure in figures]).tolist()
        num_before, num_after = ([int(count) for count in of_sites] for of_sites in counts)
        self._columns = {
            "receiver": [self.context.peer] * num_sites,
            "donor": [donor.peer] * num_sites,
            "site": list(measures.site_names),
            "receiver_entropy_nats": entropies,
            "donor_entropy_nats": donor_entropies,
            "alpha": alphas,
            "num_invalid_before": num_before,
            "num_invalid_after": num_after,
        }

    def columns(self) -> GraftColumns | None:
        """Return the columns of the last exchange."""
        return self._columns

    def alpha(self, their_entropies: Tensor, theirs: Tensor, donor: int = ALL_OTHERS) -> Tensor:
        """Return the alphas of the S sites, (S,) float64; at filter level the alphas of all their units follow.

        At filter level a site's alpha is the mean of its units' alphas, for tensors without entries per unit.

        Args:
            their_entropies: the donor's entropies, (S,) float64, nats.
            theirs: the donor's weights, (N,).
            donor: the donor's index; seeds the random criterion.
        """
        if not self._measures.site_names:
            return torch.empty(0, dtype=torch.float64, device=theirs.device)
        if self._settings.level == "filter":
            own_scores, their_scores = (
                self._unit_scores(self.weights, self.context.peer),
                self._unit_scores(theirs, donor),
            )
            pairs = zip(own_scores, their_scores, strict=True)
            of_units = [self._alpha_rule(own, their) for own, their in pairs]
            return torch.cat([torch.stack([alpha.mean() for alpha in of_units]), *of_units])
        if self._criterion is None:
            own = self._measures.entropies
            return self._alpha_rule(own, their_entropies.to(own.device))
        return self._alpha_rule(self._site_scores(self.weights, self.context.peer), self._site_scores(theirs, donor))

    def _unit_scores(self, buffer: Tensor, peer: int) -> list[Tensor]:
        """Return the scores of each site's units in a peer's weights, float64."""
        if self._criterion is None:
            return [filter_entropies(weight, self._settings.num_bins) for weight in self._measures.weights_in(buffer)]
        seed = derive(self.context.settings.seed, "criterion", peer, self.context.num_steps())
        generator = torch.Generator().manual_seed(seed)
        return [self._criterion(filters, generator).double() for filters in self._measures.filters_in(buffer)]

    def _site_scores(self, buffer: Tensor, peer: int) -> Tensor:
        """Return the score of each site: the L1 norm of its weights, or the mean score of its units."""
        if self._settings.criterion == "l1":
            return torch.stack(torch._foreach_norm(self._measures.weights_in(buffer), 1)).double()
        return torch.stack([scores.mean() for scores in self._unit_scores(buffer, peer)])

    def graft_(self, alpha: Tensor, theirs: Tensor) -> None:
        """Blend a donor's weights (N,) into this peer's, with the alphas from `alpha`."""
        self.blend_(self.weights, theirs, alpha)

    def blend_(self, buffer: Tensor, theirs: Tensor, alpha: Tensor) -> None:
        """Blend a donor's buffer (N,) into one of the same layout, with the alphas from `alpha`."""
        for place, first in self._stretches:  # one at a time, while it is in the cache
            share = alpha[first : first + place.num_units, None]
            own, their = (self._state.memory_of(each, place) for each in (buffer, theirs))
            if self._released:
                own.copy_(released_blend(own, their, share))
            else:
                blend(own, their, share, out=own)

    def _graft_integers_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend the integer buffers; each (`bn1.num_batches_tracked`) follows the site of its module."""
        for name, tensor, theirs in integers_of(self._state, donor):
            site = self._site_of[name.rpartition(".")[0]]
            tensor.copy_(released_integer_blend(tensor, theirs.to(tensor.device), alpha[site]))


def assignment_of(state: FlatState, sites: Sequence[Site], graft: GraftSettings) -> Assignment:
    """Return the assignment of a network's tensors to its sites, as `graft.compat` asks."""
    return released_assignment(state) if graft.compat == "released_code" else site_assignment(state, sites)


def site_measures(state: FlatState, sites: Sequence[Site], graft: GraftSettings | None) -> SiteMeasures:
    """Return the measures of a network's sites, as the section `graft` asks; without one, as its defaults do."""
    graft = graft or GraftSettings()
    assignment = assignment_of(state, sites, graft)
    return SiteMeasures(state, assignment, num_bins=graft.num_bins, released=graft.compat == "released_code")


def _alpha_rule(graft: GraftSettings) -> AlphaRule:
    if graft.alpha != "adaptive":
        return lambda own, theirs: fixed_alpha(own, float(graft.alpha))
    if graft.compat == "released_code":
        return partial(released_alpha, A=graft.A, c=graft.c)
    return partial(adaptive_alpha, A=graft.A, c=graft.c, base=graft.base)


def _stretches(state: FlatState, assignment: Assignment, *, by_unit: bool) -> Iterable[_Stretch]:
    """Yield the stretch of each part with its first alpha: alphas are numbered by site, then by the units of each."""
    num_units = [weight.num_units for weight in assignment.weights]
    first_units = [len(num_units) + sum(num_units[:site]) for site in range(len(num_units))]
    for assigned in assignment.parts if num_units else ():
        place = state.stretch(assigned.part, assigned.num_units)
        if by_unit and assigned.num_units > 1:
            yield _Stretch(place, first_units[assigned.site])
        else:
            yield _Stretch(place._replace(repetitions=1, num_units=1), assigned.site)


def _joined(stretches: Iterable[_Stretch]) -> Iterable[_Stretch]:
    """Join adjacent stretches that share one alpha."""
    last: _Stretch | None = None
    for stretch in stretches:
        if last and stretch.place.num_units == last.place.num_units == 1 and stretch.first == last.first:
            last = last._replace(place=last.place._replace(numel=last.place.numel + stretch.place.numel))
            continue
        if last:
            yield last
        last = stretch
    if last:
        yield last
