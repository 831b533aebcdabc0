"""Optional diagnostics of each round, as (name, value) pairs."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftpop.errors import CheckpointError
from graftpop.models.network_file import read_network
from graftpop.ops.diagnostics import density, disagreement, distance, network_information
from graftpop.ops.importance import filter_l1_norms
from graftpop.settings import DiagnosticsSettings
from graftpop.sites import SiteChoice, find_sites
from graftpop.training.filters import SiteFilters, site_weights
from graftpop.training.snapshot import Snapshot

__all__ = ["Measured", "Diagnostics", "compare_pair"]

Measured = list[tuple[str, float]]


class Diagnostics:
    """The diagnostics of one peer.

    - `network_information_nats`: sum of the sites' entropies, if there are sites.
    - `num_filters_below_T`: filters with an L1 norm below T, for every threshold T of the settings.
    - `density_valid`, `density_invalid`: mean L1 norm of the filters that are valid (invalid) in a baseline.

    Args:
        filters: filters of every site.
        settings: the section `diagnostics`.
        choice: the choice of sites, see `find_sites`.

    Raises:
        CheckpointError: the baseline cannot be read, or has another architecture.
    """

    def __init__(self, filters: Sequence[SiteFilters], settings: DiagnosticsSettings, choice: SiteChoice) -> None:
        self._weights = [site.weight for site in filters]
        self._thresholds = settings.thresholds
        by_name = {site.site.name: site.weight for site in filters}
        self._valid = (
            None
            if settings.density_of is None
            else valid_filters(settings.density_of, by_name, settings.density_threshold, choice)
        )

    def measure(self, entropies: Tensor) -> Measured:
        """Return the diagnostics of the network, given its sites' entropies (S,), nats."""
        measured = [("network_information_nats", network_information(entropies))] if len(entropies) else []
        measured += [
            (f"num_filters_below_{threshold:g}", float(number))
            for threshold, number in zip(self._thresholds, self._numbers_below(), strict=True)
        ]
        if self._valid is not None:
            names = ("density_valid", "density_invalid")
            measured += [
                (name, value)
                for name, value in zip(names, density(self._weights, self._valid), strict=True)
                if not math.isnan(value)
            ]
        return measured

    def _numbers_below(self) -> list[int]:
        """Return the number of filters below each threshold."""
        if not (self._weights and self._thresholds):
            return [0] * len(self._thresholds)
        norms_F = torch.cat([filter_l1_norms(weight) for weight in self._weights])
        numbers: list[int] = torch.stack([torch.count_nonzero(norms_F < one) for one in self._thresholds]).tolist()
        return numbers


def valid_filters(folder: str, weights: Mapping[str, Tensor], threshold: float, choice: SiteChoice) -> list[Tensor]:
    """Return a mask of valid filters in a baseline, one bool tensor (O) per site.

    Args:
        folder: the baseline's folder best/.
        weights: weights (O, ...) of a network of the same architecture, by name of site.
        threshold: smallest L1 norm of a valid filter.
        choice: the choice of sites, see `find_sites`.

    Raises:
        CheckpointError: the folder has no network, or one of another architecture.
    """
    try:
        network, card = read_network(folder)
        sites = find_sites(network, card.input_shape, card.model, choice)
    except CheckpointError as error:
        raise CheckpointError(f"diagnostics.density_of: {error}") from error
    baseline = site_weights(network, sites)
    for name in (*weights, *baseline):  # a deeper network contains all names of a shallower one
        if name not in weights or name not in baseline or weights[name].shape != baseline[name].shape:
            raise CheckpointError(
                f"diagnostics.density_of: {folder} must hold a network of the same architecture, got "
                f"another {name}; give best/ of a run of this model"
            )
    return [(filter_l1_norms(baseline[name]) >= threshold).to(weight.device) for name, weight in weights.items()]


def compare_pair(own: Snapshot, other: Snapshot) -> Measured:
    """Return the L2 distance of two peers' weights, and the share of validation items on which they disagree."""
    measured = [("distance", distance(torch.tensor(own.weights), torch.tensor(other.weights)))]
    if own.predicted.size:
        measured.append(("disagreement", disagreement(torch.tensor(own.predicted), torch.tensor(other.predicted))))
    return measured
