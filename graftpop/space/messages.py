"""What pydantic refused, said in one line: where, key, rule, value and the nearest right choice."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from graftpop.errors import closest
from graftpop.settings import Settings
from graftpop.space.domains import DOMAINS, number_hint
from graftpop.space.tree import known_keys

__all__ = ["Origins", "describe"]


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
        return f"{self._overridden.get(key) or self._overridden.get(key.split('.')[0]) or self._where}: {key}"


def describe(error: ValidationError, tree: Mapping[str, Any], sample: Mapping[str, Any], origin: Origins) -> str:
    """Return one line for the first key that was refused.

    Args:
        error: what pydantic said.
        tree: the plain data that was validated.
        sample: the searched keys and the values that were tried.
        origin: what messages on a key begin with.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    for problem in error.errors():
        by_key.setdefault(_key_of(problem, tree), []).append(problem)
    key, problems = next(iter(by_key.items()))
    if problems[0]["type"] in ("extra_forbidden", "invalid_key"):
        *sections, name = map(str, problems[0]["loc"])
        names = _keys_of_section(".".join(sections))
        return f"{origin(key)}: unknown key '{name}'; choose from {', '.join(names)}{closest(name, names)}"
    value = problems[0]["input"]
    if isinstance(value, dict) and len(value) == 1:
        kind = str(next(iter(value)))
        return f"{origin(key)}: unknown domain '{kind}'; choose from {', '.join(DOMAINS)}{closest(kind, DOMAINS)}"
    rules = " or ".join(dict.fromkeys(_rule(problem) for problem in problems))
    searched = " among the searched values" if key in sample else ""
    hint = _hint(value, problems)
    if searched and isinstance(value, float) and any(problem["type"].startswith("int_") for problem in problems):
        hint = "; whole numbers are searched by choice, randint or grid"
    return f"{origin(key)}: must be {rules}, got {_shown(value)}{searched}{hint}"


def _shown(value: Any) -> str:
    """Return a value as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _keys_of_section(section: str) -> list[str]:
    prefix = f"{section}." if section else ""
    below = [key.removeprefix(prefix).split(".")[0] for key in known_keys(Settings) if key.startswith(prefix)]
    return list(dict.fromkeys(below))


def _key_of(problem: ErrorDetails, tree: Any) -> str:
    """Return the dotted key of a problem: pydantic's location without the union members it goes on with."""
    names = []
    for part in problem["loc"]:
        names.append(str(part))
        if not isinstance(tree, dict) or not isinstance(tree.get(part), dict):
            break
        tree = tree[part]
    return ".".join(names)


def _rule(problem: ErrorDetails) -> str:
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "a section: a map of keys"
    if problem["type"] == "string_pattern_mismatch":
        return "made of letters, digits, '.', '_' and '-', beginning with a letter or digit"
    return problem["msg"].removeprefix("Input should be ")


def _hint(value: Any, problems: list[ErrorDetails]) -> str:
    """Return what the user may have meant: the closest choice, or the number that a text spells."""
    if not isinstance(value, str):
        return ""
    choices = [word.strip(" '") for problem in problems if problem["type"] == "literal_error"
               for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
    wants_number = any(problem["type"] in ("float_type", "int_type") for problem in problems)
    return closest(value, choices) or (number_hint(value) if wants_number else "")
