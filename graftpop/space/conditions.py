"""Conditions of searched keys: a key that cannot matter under the others is neither sampled nor recorded.

A key of graft may depend on others by its declaration (`OnlyWith`), and a key searched inside a choice depends on it:

    graft: {choice: [{alpha: 0.5}, {A: {uniform: [0, 1]}}]}    # graft.A is searched in the second choice only
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graftpop.settings import Settings
from graftpop.settings.section import OnlyWith
from graftpop.space.domains import Domain
from graftpop.space.keys import default_of, section_of
from graftpop.space.yaml_tree import value_at

__all__ = ["conditions_of", "dependent_keys", "in_order", "possible_values"]


@cache
def dependent_keys() -> Mapping[str, tuple[OnlyWith, ...]]:
    """Return the declared conditions of every key that has some, including those of the keys it depends on."""
    declared = {
        f"{name}.{key}": tuple(mark for mark in value.metadata if isinstance(mark, OnlyWith))
        for name, field in Settings.model_fields.items()
        for key, value in _fields_of(section_of(field.annotation)).items()
    }

    def with_inherited(key: str) -> tuple[OnlyWith, ...]:
        own = declared.get(key, ())
        return tuple(dict.fromkeys((*own, *(above for mark in own for above in with_inherited(mark.key)))))

    return {key: with_inherited(key) for key in declared if declared[key]}


def _fields_of(section: type[BaseModel] | None) -> Mapping[str, FieldInfo]:
    return section.model_fields if section is not None else {}


def conditions_of(key: str, domains: Mapping[str, Domain]) -> tuple[OnlyWith, ...]:
    """Return all conditions under which a searched key matters; all must hold.

    Args:
        key: dotted key.
        domains: domains of the searched keys.
    """
    branches = [domains[key].only_with] if key in domains else []
    return (*filter(None, branches), *dependent_keys().get(key, ()))


def possible_values(condition: OnlyWith, key: str, domains: Mapping[str, Domain], fixed: Any) -> Sequence[Any]:
    """Return the values that a condition's key can have in the trials in which a searched key is sampled.

    Args:
        condition: a condition of the searched key.
        key: the searched key.
        domains: domains of the searched keys.
        fixed: the value of the condition's key if it is not searched.
    """
    searched = _searched_around(condition.key, domains)
    if searched is None:
        return (fixed,)
    if searched == condition.key:
        return domains[searched].boundary_values
    within, names = domains[key].only_with, condition.key.removeprefix(f"{searched}.").split(".")
    choices = within.values if within is not None and within.key == searched else domains[searched].values
    return [value_at(choice, names, default_of(condition.key)) for choice in choices]


def _searched_around(key: str, domains: Mapping[str, Domain]) -> str | None:
    """Return the searched key that decides the value of a key: itself, or a section around it; None: it is fixed."""
    names = key.split(".")
    around = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((name for name in around if name in domains), None)


def in_order(domains: Mapping[str, Domain]) -> dict[str, Domain]:
    """Return domains in an order in which each key comes after the keys that it depends on."""
    ordered: dict[str, Domain] = {}

    def add(key: str) -> None:
        for condition in conditions_of(key, domains):
            searched = _searched_around(condition.key, domains)
            if searched is not None and searched not in ordered:
                add(searched)
        ordered.setdefault(key, domains[key])

    for key in domains:
        add(key)
    return ordered
