"""One-line messages for values that pydantic refuses: origin, key, rule, value and the closest valid choice."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from graftpop.errors import closest
from graftpop.settings.optimizer import TIMM
from graftpop.space.domains import DOMAINS, number_hint
from graftpop.space.keys import STUDY_KEYS, names_at
from graftpop.user_code import PYTHON

__all__ = ["Origin", "Origins", "VariantOrigins", "describe", "format_value"]

KEY_OF_MAP: Final = ("[key]",)
"""End of pydantic's location of an invalid name in a map."""

Origin = Callable[[str], str]
"""Returns the start of a message about a dotted key: the file or option that set the key, and the key."""


class Origins:
    """Origins of the keys of a space: the file, or the option that set the key or its section.

    Args:
        where: name of the file.
        overridden: options by the key or section that they set.
    """

    def __init__(self, where: str, overridden: Mapping[str, str] | None = None) -> None:
        self._where = where
        self._overridden = overridden or {}

    def __call__(self, key: str) -> str:
        """Return the start of a message about a key."""
        ends = [len(key), *(match.start() for match in reversed([*re.finditer(r"[.\[]", key)]))]
        set_by = (self._overridden.get(key[:end]) for end in ends)
        return f"{next(filter(None, set_by), self._where)}: {key}"


class VariantOrigins:
    """Origins of the keys of one variant: the variant itself, or the common sections.

    Args:
        origin: origins of the whole space.
        name: name of the variant.
        variant: sections of the variant.
        common: sections that all variants share.
    """

    def __init__(self, origin: Origin, name: str, variant: Mapping[str, Any], common: Mapping[str, Any]) -> None:
        self._origin, self._name, self._variant, self._common = origin, name, variant, common

    def __call__(self, key: str) -> str:
        """Return the start of a message about a key that conflicts with another key in this variant."""
        return self._origin(self._own(key) or f"{key} (in variant {self._name})")

    def of_value(self, key: str) -> str:
        """Return the start of a message about a key whose value is invalid in any variant."""
        return self._origin(self._own(key) or key)

    def _own(self, key: str) -> str:
        """Return the path of a key in the variant; empty if the variant does not set it."""
        names = re.sub(r"\[\d+\]", "", key).split(".")
        own = _depth(self._variant, names)
        return f"variants.{self._name}.{key}" if own and own >= _depth(self._common, names) else ""


def _depth(tree: Any, names: list[str]) -> int:
    """Return how many of the names, from the first, exist as nested maps."""
    depth = 0
    while depth < len(names) and isinstance(tree, Mapping) and names[depth] in tree:
        tree = tree[names[depth]]
        depth += 1
    return depth


def describe(error: ValidationError, tree: Mapping[str, Any], sample: Mapping[str, Any], origin: Origin) -> str:
    """Return a one-line message about the first key that was refused.

    Args:
        error: pydantic's error.
        tree: the plain data that was validated.
        sample: the searched keys and their values in that data.
        origin: see `Origin`.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    # a misspelled required key is also missing: the misspelling comes first
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] == "missing"):
        by_key.setdefault(_key_of(problem, tree), []).append(problem)
    key, problems = next(iter(by_key.items()))
    value = problems[0]["input"]
    if problems[0]["type"] in ("extra_forbidden", "invalid_key"):
        *sections, name = problems[0]["loc"]
        names = names_at(tuple(sections))
        choices = f"choose from {', '.join(names)}{closest(str(name), names)}" if names else "the section has none"
        return f"{origin(key)}: unknown key '{name}'; {choices}"
    if problems[0]["type"] == "missing":
        return f"{origin(key)}: must be given, got nothing; add it"
    may_search = key.split(".")[0] not in STUDY_KEYS
    if may_search and isinstance(value, dict) and len(value) == 1 and problems[0]["type"] != "list_type":
        kind = str(next(iter(value)))
        if kind in DOMAINS:
            return f"{origin(key)}: cannot be searched inside a list, got {value}; search the list as a whole"
        if "." not in kind:  # else a map of keys
            return f"{origin(key)}: unknown domain '{kind}'; choose from {', '.join(DOMAINS)}{closest(kind, DOMAINS)}"
    rules = " or ".join(dict.fromkeys(_rule(problem) for problem in problems))
    searched = " among the searched values" if any(f"{key}.".startswith(f"{name}.") for name in sample) else ""
    hint = _hint(value, problems)
    if searched and isinstance(value, float) and any(problem["type"].startswith("int_") for problem in problems):
        hint = "; whole numbers are searched by choice, randint or grid"
    subject = "names " if problems[0]["loc"][-1:] == KEY_OF_MAP else ""
    return f"{origin(key)}: {subject}must be {rules}, got {format_value(value)}{searched}{hint}"


def format_value(value: Any) -> str:
    """Return a value for a message: null, true and false as in YAML, anything else by `repr`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key_of(problem: ErrorDetails, tree: Any) -> str:
    """Return the dotted key of a problem: pydantic's location without the union members at its end.

    For an invalid name in a map it is the map's key.
    """
    key, loc = "", problem["loc"]
    for part in loc[:-2] if loc[-1:] == KEY_OF_MAP else loc:
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
    if problem["type"] == "dict_type":
        return "a map"
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == r"\S":
        return "text"
    if problem["type"] == "string_pattern_mismatch" and TIMM in problem["ctx"]["pattern"]:
        return f"{TIMM}NAME"
    if problem["type"] == "string_pattern_mismatch" and PYTHON in problem["ctx"]["pattern"]:
        return f"{PYTHON}MODULE.NAME"
    if problem["type"] == "string_pattern_mismatch":
        return "made of letters, digits, '.', '_' and '-', beginning with a letter or digit"
    if problem["type"] == "string_type" and problem["loc"][-1:] == ("constrained-str",):
        return f"{TIMM}NAME" if "optimizer" in problem["loc"] else f"{PYTHON}MODULE.NAME"  # one of several types
    if problem["type"] == "too_short":
        kind = "map" if problem["ctx"]["field_type"] == "Dictionary" else "list"
        return f"a {kind} of {problem['ctx']['min_length']} or more"
    return problem["msg"].removeprefix("Input should be ")


def _hint(value: Any, problems: list[ErrorDetails]) -> str:
    """Return a hint: the closest choice, or the number that a string spells; empty if there is none."""
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
