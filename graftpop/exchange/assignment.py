"""The assignment of every tensor of a network to the site whose alpha it takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from graftpop.errors import ModelError
from graftpop.sites import Part, Site
from graftpop.training.flat_state import FlatState

__all__ = ["Assigned", "Assignment", "check_released", "released_assignment", "site_assignment"]


@dataclass(frozen=True)
class Assigned:
    """A part of a tensor, and the index of its site; `num_units` is 1 if the part has no entries per unit."""

    part: Part
    site: int
    num_units: int = 1


@dataclass(frozen=True)
class Assignment:
    """The measured weight of each site, and the site of each part of the state.

    Attributes:
        site_names: (S) names of the sites in the records.
        weights: (S) the weights whose scores decide alpha.
        norms: (S) scale and shift of the normalization after each site; None if there is none.
        parts: all parts of the state, in the order of the buffer.
    """

    site_names: tuple[str, ...]
    weights: tuple[Assigned, ...]
    norms: tuple[tuple[Part | None, Part | None], ...]
    parts: tuple[Assigned, ...]


def site_assignment(state: FlatState, sites: Sequence[Site]) -> Assignment:
    """Assign each tensor of a state to a site.

    The weight and the entries of a site belong to it. Any other tensor belongs to the site before it in module order,
    or to the first site if there is none before it.

    Args:
        state: the state of a network.
        sites: sites of the network, in module order.
    """
    owned: dict[str, list[Assigned]] = {}
    for index, site in enumerate(sites):
        for part in site.parts:
            owned.setdefault(part.tensor, []).append(Assigned(part, index, site.num_units))
    parts: list[Assigned] = []
    latest = 0
    for name in (entry.name for entry in state.entries):
        if name in owned:
            parts += sorted(owned[name], key=lambda assigned: assigned.part.start)
            latest = max(latest, owned[name][-1].site)
        else:
            parts.append(Assigned(state.whole(name), latest))
    return Assignment(
        tuple(site.name for site in sites),
        tuple(Assigned(site.weight, index, site.num_units) for index, site in enumerate(sites)),
        tuple((site.entry("scale"), site.entry("shift")) for site in sites),
        tuple(parts),
    )


def released_assignment(state: FlatState) -> Assignment:
    """Assign as the released code does: a name with "conv" is a site, any other name follows the last site.

    Raises:
        ModelError: see `check_released`.
    """
    names = [entry.name for entry in state.entries]
    check_released(names)
    parts: list[Assigned] = []
    weights: list[Assigned] = []
    for name in names:
        part = state.whole(name)
        if "conv" in name:
            weights.append(Assigned(part, len(weights), part.length))
        parts.append(Assigned(part, len(weights) - 1))
    site_names = tuple(weight.part.tensor.removesuffix(".weight") for weight in weights)
    return Assignment(site_names, tuple(weights), ((None, None),) * len(weights), tuple(parts))


def check_released(names: Sequence[str]) -> None:
    """Check that the released code can assign the tensors of a network.

    Args:
        names: names of its tensors, in order.

    Raises:
        ModelError: the first name has no "conv"; the released code then raises an UnboundLocalError.
    """
    if "conv" not in names[0]:
        raise ModelError(
            f"graft.compat: the released code needs a network whose first tensor has 'conv' in its name, "
            f"got '{names[0]}'; choose compat: none"
        )
