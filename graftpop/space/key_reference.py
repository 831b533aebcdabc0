"""The reference of all keys of a space as Markdown, from its schema: what docs/keys.md holds."""

from collections.abc import Iterable, Iterator
from typing import Final

from graftpop.space.commented_yaml import on_one_line
from graftpop.space.json_schema import KINDS, space_schema
from graftpop.space.settings_schema import (
    Schema,
    choices_in,
    class_of,
    number_in,
    parts_of,
    range_in_words,
    section_of,
    settings_schema,
)
from graftpop.space.yaml_tree import STUDY_KEYS

__all__ = ["keys_markdown"]

HEAD: Final = """\
# Keys

Every key of a search space: what it means, what it may be, what it is where it is absent, and by which domains it can
be searched. [search_spaces/cifar.yaml](../search_spaces/cifar.yaml) has them all in one file.

[search_spaces/schema.json](../search_spaces/schema.json) is for editors: where the first line of a space is
`# yaml-language-server: $schema=FILE`, keys are completed, explained and checked while they are written.
`python -m graftpop.init` writes a small space to begin with, and the schema beside it.

On the command line a key is set by `--set section.key=VALUE`, VALUE in YAML. Numbers need a point: `1.0e-4`, not
`1e-4`.
"""
DOMAINS: Final = """\
## Domains

A map with one of these keys, in place of a value, is searched. A whole section may be searched by `choice` or `grid`.

"""
COMPARISON: Final = """\
## Comparisons

These stand beside the sections and make a comparison of a space; [methods.md](methods.md) has what is compared.

"""


def keys_markdown() -> str:
    """Return the reference: a heading a section, a row a key."""
    space, settings = space_schema(), settings_schema()
    sections = {name: section_of(node, settings) for name, node in settings["properties"].items()}
    keys = {name: node for name, node in settings["properties"].items() if sections[name] is None}
    parts = [
        HEAD,
        DOMAINS
        + _table("domain", "what it yields", rows=((f"`{kind}`", node["description"]) for kind, node in KINDS.items())),
    ]
    parts.append("## Of the whole\n\n" + _keys("", keys, space["properties"]))
    for name, section in sections.items():
        if section is not None:
            node = settings["properties"][name]
            off = " Off where it is null or absent." if {"type": "null"} in parts_of(node) else ""
            searched = space["$defs"].get(f"Searched{class_of(node)}", {"properties": {}})["properties"]
            table = _keys(name, section["properties"], searched)
            parts.append(f"## {name}\n\n{section['description']}{off}\n\n{table}")
            parts += _listed(name, section, settings)
    study = _table("key", "meaning", rows=((f"`{key}`", space["properties"][key]["description"]) for key in STUDY_KEYS))
    return "\n".join([*parts, COMPARISON + study])


def _listed(name: str, section: Schema, settings: Schema) -> Iterator[str]:
    """Yield the tables of sections that stand in the lists of a section."""
    for key, value in section["properties"].items():
        inner = section_of(value.get("items", {}), settings)
        if inner is not None:
            yield f"### One of {name}.{key}\n\n{inner['description']}\n\n" + _keys("", inner["properties"], {})


def _keys(section: str, keys: Schema, searched: Schema) -> str:
    return _table(
        "key",
        "meaning",
        "values",
        "default",
        "searched by",
        rows=(
            (
                f"`{section}.{key}`".replace("`.", "`"),
                value["description"],
                _values(value),
                _default(value),
                _kinds(searched.get(key, {})),
            )
            for key, value in keys.items()
        ),
    )


def _table(*names: str, rows: Iterable[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (names, ["---"] * len(names), *rows))


def _values(value: Schema) -> str:
    """Return what a key may be: choices, numbers and their range, or a kind."""
    if value.get("type") == "array":
        return ", ".join(filter(None, ("a list", range_in_words(value))))
    choices = [f"`{choice}`" for choice in choices_in(value)]
    number = number_in(value)
    if number is not None:
        whole = "whole number" if number["type"] == "integer" else "number"
        choices.append(f"{whole}, {range_in_words(value)}")
    kinds = {part.get("type") for part in parts_of(value) if not {"enum", "const"} & part.keys()}
    others = {"boolean": "true or false", "string": "text", "null": "null"}
    patterns = any("pattern" in part for part in parts_of(value)) and bool(choices)
    named = ["`torchvision:NAME`", "`timm:NAME`", "`python:MODULE.CLASS`"] if patterns else []
    return "; ".join(
        [
            *choices,
            *named,
            *(text for kind, text in others.items() if kind in kinds and not (kind == "string" and named)),
        ]
    )


def _default(value: Schema) -> str:
    return f"`{on_one_line(value['default'])}`" if "default" in value else "must be given"


def _kinds(node: Schema) -> str:
    """Return by which domains a key is searched."""
    kinds = [kind for part in node.get("anyOf", ()) if "maxProperties" in part for kind in part["properties"]]
    return "any domain" if len(kinds) == len(KINDS) else ", ".join(kinds) or "not searched"
