"""A space as YAML with a comment above every key: its meaning, range, choices and default."""

import re
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any, Final

import yaml
from generators.settings_schema import Schema, choices_in, parts_of, range_in_words, section_of, settings_schema

from graftpop.space.domains import is_domain

__all__ = ["commented_yaml", "on_one_line"]

WIDTH: Final = 120
UNBROKEN: Final = "\xa0"
"""A space at which lines are not wrapped."""


def commented_yaml(tree: Mapping[str, Any], head: str = "") -> str:
    """Return a space as YAML with a comment above each section and each key.

    Sections and keys have the order of the settings. The comment above a section that is null lists its keys with
    their defaults.

    Args:
        tree: valid sections, in which values may be domains; keys of a comparison (`STUDY_KEYS`) are left out.
        head: comment lines for the top of the file.
    """
    schema = settings_schema()
    blocks = [head.strip("\n")] if head else []
    for name, node in schema["properties"].items():
        section = section_of(node, schema)
        if name in tree and section is None:
            blocks.append("\n".join([*_wrapped(_description(node), "# ", "# "), f"{name}: {on_one_line(tree[name])}"]))
        elif name in tree and section is not None:
            blocks.append("\n".join(_section(name, tree[name], section)))
    return "\n\n".join(blocks) + "\n"


def on_one_line(value: Any) -> str:
    """Return a value as one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _section(name: str, values: Any, section: Schema) -> Iterator[str]:
    yield from _wrapped(section["description"], "# ", "# ")
    if values is None:
        for key, value in section["properties"].items():
            default = value.get("default", value.get("examples", [None])[0])
            yield from _wrapped(_description(value, default=False), f"#   {key}: {on_one_line(default)}   ", "#       ")
    if not values or is_domain(values):
        yield f"{name}: {on_one_line(values)}"
        return
    yield f"{name}:"
    for key, value in section["properties"].items():
        if key in values:
            yield from _wrapped(_description(value), "  # ", "  # ")
            yield f"  {key}: {on_one_line(values[key])}"


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Return a text wrapped into lines: `first` begins the first line, `others` the following ones."""
    lines = wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )
    return [line.replace(UNBROKEN, " ") for line in lines]


def _description(value: Schema, *, default: bool = True) -> str:
    """Return the meaning of a key, its choices if the meaning omits them, its range, and its default unless null."""
    text: str = value["description"]
    choices = choices_in(value)
    if not all(re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text) for choice in choices):
        text += f" One of {', '.join(choices)}."
    if allowed := range_in_words(value):
        text += f" A number: {allowed}." if len(parts_of(value)) > 1 else f" {allowed[0].upper()}{allowed[1:]}."
    if default and value.get("default") is not None:
        text += f" Default{UNBROKEN}{on_one_line(value['default'])}."
    return text
