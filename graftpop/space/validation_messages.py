"""What pydantic refused, said in one line: where, key, rule, value and the nearest right choice."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from graftpop.errors import closest
from graftpop.space.domains import DOMAINS, number_hint
from graftpop.space.yaml_tree import names_at

__all__ = ["Origin", "Origins", "VariantOrigins", "describe", "shown"]

Origin = Callable[[str], str]
"""From a dotted key to the beginning of a message on it."""


class Origins:
    """Where each key came from: the file, or the option that set the key or its section.

    Args:
        where: what a message on a key of the file begins with.
        overridden: for keys set by an option, what to begin with instead.
    """

    def __init__(self, where: str, overridden: Mapping[str, str] | None = None) -> None:
        self._where = where
        self._overridden = overridden or {}

    def __call__(self, key: str) -> str:
        """Return the beginning of a message on a key."""
        set_by = (self._overridden.get(name) for name in (key, key.partition("[")[0], re.split(r"[.\[]", key)[0]))
        return f"{next(filter(None, set_by), self._where)}: {key}"


class VariantOrigins:
    """Where each key of one variant came from: the variant itself, or what all variants have in common.

    Args:
        origin: of the whole space.
        name: of the variant.
        variant: its sections.
        common: the sections of all.
    """

    def __init__(self, origin: Origin, name: str, variant: Mapping[str, Any], common: Mapping[str, Any]) -> None:
        self._origin, self._name, self._variant, self._common = origin, name, variant, common

    def __call__(self, key: str) -> str:
        """Return the beginning of a message on a key that does not fit another one in this variant."""
        return self._origin(self._own(key) or f"{key} (in variant {self._name})")

    def of_value(self, key: str) -> str:
        """Return the beginning of a message on a key whose value no variant could have."""
        return self._origin(self._own(key) or key)

    def _own(self, key: str) -> str:
        """Return the name of a key within the variant, or nothing where the variant does not set it."""
        names = re.sub(r"\[\d+\]", "", key).split(".")
        own = _depth(self._variant, names)
        return f"variants.{self._name}.{key}" if own and own >= _depth(self._common, names) else ""


def _depth(tree: Any, names: list[str]) -> int:
    """Return how many of the names lead from map to map."""
    depth = 0
    while depth < len(names) and isinstance(tree, Mapping) and names[depth] in tree:
        tree = tree[names[depth]]
        depth += 1
    return depth


def describe(error: ValidationError, tree: Mapping[str, Any], sample: Mapping[str, Any], origin: Origin) -> str:
    """Return one line for the first key that was refused.

    Args:
        error: what pydantic said.
        tree: the plain data that was validated.
        sample: the searched keys and the values that were tried.
        origin: what messages on a key begin with.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] == "missing"):  # a misspelt key is both
        by_key.setdefault(_key_of(problem, tree), []).append(problem)
    key, problems = next(iter(by_key.items()))
    value = problems[0]["input"]
    if problems[0]["type"] in ("extra_forbidden", "invalid_key"):
        *sections, name = problems[0]["loc"]
        names = names_at(tuple(sections))
        return f"{origin(key)}: unknown key '{name}'; choose from {', '.join(names)}{closest(str(name), names)}"
    if problems[0]["type"] == "missing":
        return f"{origin(key)}: must be given, got nothing"
    if isinstance(value, dict) and len(value) == 1 and problems[0]["type"] != "list_type":
        kind = str(next(iter(value)))
        if kind in DOMAINS:
            return f"{origin(key)}: cannot be searched inside a list, got {value}; search the list as a whole"
        return f"{origin(key)}: unknown domain '{kind}'; choose from {', '.join(DOMAINS)}{closest(kind, DOMAINS)}"
    rules = " or ".join(dict.fromkeys(_rule(problem) for problem in problems))
    searched = " among the searched values" if any(f"{key}.".startswith(f"{name}.") for name in sample) else ""
    hint = _hint(value, problems)
    if searched and isinstance(value, float) and any(problem["type"].startswith("int_") for problem in problems):
        hint = "; whole numbers are searched by choice, randint or grid"
    return f"{origin(key)}: must be {rules}, got {shown(value)}{searched}{hint}"


def shown(value: Any) -> str:
    """Return a value as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key_of(problem: ErrorDetails, tree: Any) -> str:
    """Return the dotted key of a problem: pydantic's location without the union members it goes on with."""
    key = ""
    for part in problem["loc"]:
        if isinstance(tree, list) and isinstance(part, int):
            key, tree = f"{key}[{part}]", tree[part]
        elif isinstance(tree, dict) and (part in tree or problem["type"] in ("missing", "invalid_key")):
            key, tree = f"{key}.{part}", tree.get(part)
        else:
            break
    return key.removeprefix(".")


def _rule(problem: ErrorDetails) -> str:
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "a section: a map of keys"
    if problem["type"] == "string_pattern_mismatch":
        return "made of letters, digits, '.', '_' and '-', beginning with a letter or digit"
    if problem["type"] == "too_short":
        return f"a list of {problem['ctx']['min_length']} or more"
    return problem["msg"].removeprefix("Input should be ")


def _hint(value: Any, problems: list[ErrorDetails]) -> str:
    """Return what the user may have meant: the closest choice, or the number that a text spells."""
    if not isinstance(value, str):
        return ""
    choices = [
        word.strip(" '")
        for problem in problems
        if problem["type"] == "literal_error"
        for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")
    ]
    wants_number = any(problem["type"] in ("float_type", "int_type") for problem in problems)
    return closest(value, choices) or (number_hint(value) if wants_number else "")
