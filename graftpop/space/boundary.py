"""The samples by which a space is judged: every value that a rule could refuse is in one of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graftpop.space.domains import Domain

__all__ = ["combinations", "boundary_samples"]

LENGTHS = (
    "training",
    "population",
    "graft",
    "repr",
    "training.epochs",
    "training.total_epochs",
    "population.num_peers",
    "population.epochs_per_round",
    "graft.burn_in_rounds",
    "repr.S1",
    "repr.S2",
    "repr.N",
)
"""What rules tie together by more than two: how long a training is, and what has to go into it. Every such rule is
worst where each of them is lowest or highest."""


def boundary_samples(domains: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Yield samples that together hold, in every variant, every pair of corner values of any two other domains.

    Rules tie two keys at most, but for LENGTHS, of which all combinations of the extremes are there.
    """
    others = {key: domain for key, domain in domains.items() if key != "variant"}
    for variant in combinations({key: domain.values for key, domain in domains.items() if key == "variant"}):
        yield from (variant | sample for sample in _boundary_values_of(others))


def _boundary_values_of(domains: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    yield {key: domain.boundary_values[0] for key, domain in domains.items()}
    for key, domain in domains.items():
        yield from ({key: value} for value in domain.boundary_values)
    for pair in itertools.combinations(domains, 2):
        yield from combinations({key: domains[key].boundary_values for key in pair})
    yield from combinations({key: _extremes(domains[key]) for key in LENGTHS if key in domains})


def _extremes(domain: Domain) -> Sequence[Any]:
    numbers = [value for value in domain.boundary_values if type(value) in (int, float)]
    return (
        sorted({min(numbers), max(numbers)}) if len(numbers) == len(domain.boundary_values) else domain.boundary_values
    )


def combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of one value a key; of no keys the empty one."""
    return (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
