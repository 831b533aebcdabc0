"""The domains in the sections of a space: read, taken out and collected by dotted key.

A choice among sections may hold domains of its own, which are searched in that choice only.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.settings.section import OnlyWith
from graftpop.space.domains import Domain, is_domain, read_domain
from graftpop.space.validation_messages import Origin

__all__ = ["OF_TASK", "SEARCHABLE", "take_domains_"]

FIXED = ("name", "diagnostics", "tune", "resources")

SEARCHABLE = tuple(name for name in Settings.model_fields if name not in FIXED)

OF_TASK = ("task", "task.name", "task.metrics")
"""Keys that cannot be searched, since the scores of different tasks cannot be compared."""


def take_domains_(tree: dict[str, Any], origin: Origin, path: tuple[str, ...] = ()) -> dict[str, Domain]:
    """Replace each domain of a tree by its first value, in place, and return the domains by dotted key.

    Args:
        tree: sections, or the part of them at `path`.
        origin: see `Origin`.
        path: keys that lead to the tree.

    Raises:
        SpaceError: a domain is invalid, or its key cannot be searched.
    """
    domains: dict[str, Domain] = {}
    for name, value in tree.items():
        key = ".".join((*path, str(name)))
        if is_domain(value):
            found = _with_inner_domains(key, _read_domain(key, value, origin), origin)
            tree[name] = found[key].boundary_values[0]
            domains |= found
        elif isinstance(value, dict):
            domains |= take_domains_(value, origin, (*path, str(name)))
    return domains


def _read_domain(key: str, value: Mapping[str, Any], origin: Origin) -> Domain:
    if key.split(".")[0] not in SEARCHABLE:
        raise SpaceError(
            f"{origin(key)}: cannot be searched, got {value}; fix it, or search in {', '.join(SEARCHABLE)}"
        )
    if key.split(".")[0] == "data" and not {"choice", "grid"} & value.keys():
        raise SpaceError(
            f"{origin(key)}: data must be searched by choice or grid, since every data set is read "
            f"before the study starts, got {value}; list the values"
        )
    if key.startswith("population.diversity."):
        raise SpaceError(
            f"{origin(key)}: cannot be searched inside the map, got {value}; give a list or {{range: [LOW, HIGH]}} "
            f"for the peers, or search population.diversity as a whole by choice"
        )
    if key in OF_TASK:
        raise SpaceError(
            f"{origin(key)}: cannot be searched, since the scores of different tasks cannot be compared, got {value}; "
            f"fix it"
        )
    return read_domain(value, origin(key))


def _split_domains(choice: Any) -> tuple[dict[str, Any], Any]:
    """Return the domains inside a choice by dotted key, and the choice without them."""
    if not isinstance(choice, dict):
        return {}, choice
    found: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, value in choice.items():
        if is_domain(value):
            found[name] = value
            continue
        inner, fixed[name] = _split_domains(value)
        found |= {f"{name}.{key}": domain for key, domain in inner.items()}
    return found, fixed


def _with_inner_domains(section: str, whole: Domain, origin: Origin) -> dict[str, Domain]:
    """Return the domain of a key, and separately the domains inside its choices, with their conditions."""
    if not any(isinstance(choice, dict) for choice in whole.values):
        return {section: whole}
    inner: dict[str, Domain] = {}
    choices: list[Any] = []
    for choice in whole.values:
        found, fixed = _split_domains(choice)
        if fixed in choices:
            raise SpaceError(
                f"{origin(section)}: choices must differ in a fixed value, got {fixed} twice with domains; merge them"
            )
        choices.append(fixed)
        for name, value in found.items():
            key = f"{section}.{name}"
            domain = _read_domain(key, value, origin)
            before = inner.get(key, domain)
            if (before.kind, before.values) != (domain.kind, domain.values):
                raise SpaceError(
                    f"{origin(key)}: must have the same domain in every choice, got {before} and {domain}; use one"
                )
            others = before.only_with.values if before.only_with else ()
            inner[key] = replace(domain, only_with=OnlyWith(section, (*others, fixed)))
    return {section: replace(whole, values=tuple(choices)), **inner}
