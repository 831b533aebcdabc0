"""The samples on which a space is validated: they cover every value that a rule could refuse."""

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
    "training.warmup_epochs",
    "population.num_peers",
    "population.epochs_per_round",
    "graft.burn_in_rounds",
    "repr.S1",
    "repr.S2",
    "repr.N",
)
"""Keys of the training's length and of everything that must fit into it. One rule may combine more than two of these
keys; it is broken first where each of them is at an extreme."""


def boundary_samples(domains: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Yield samples that cover, in every variant, all pairs of boundary values of any two domains.

    Rules combine at most two keys, except for those in LENGTHS: all combinations of their extremes are covered.

    Args:
        domains: domains by dotted key; `variant` is one of the keys if the space has variants.
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
    """Yield every combination of one value per key; a single empty one if there are no keys."""
    return (dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()))
