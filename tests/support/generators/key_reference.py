"""The reference of all keys as Markdown, generated from the schema: docs/keys.md."""

from collections.abc import Iterable, Iterator
from typing import Final

from generators.commented_yaml import on_one_line
from generators.json_schema import KINDS, space_schema
from generators.settings_schema import (
    Schema,
    choices_in,
    class_of,
    number_in,
    parts_of,
    range_in_words,
    section_of,
    settings_schema,
)

from graftpop.space.keys import STUDY_KEYS

__all__ = ["keys_markdown"]

HEAD: Final = """\
# Keys

This page lists every key of a search space with its meaning, its allowed values, its default and the domains that can
search it. [search_spaces/cifar.yaml](../search_spaces/cifar.yaml) shows all keys in one file.

[search_spaces/schema.json](../search_spaces/schema.json) is for your editor. If the first line of a space is
`# yaml-language-server: $schema=FILE`, the editor completes, explains and checks keys while you type.
`python -m graftpop.init` writes a small space to start from, with the schema next to it; `--from NAME` copies a space
that `graftpop spaces` lists.

Set a key on the command line with `--set section.key=VALUE`, where VALUE is YAML.
"""
DOMAINS: Final = """\
## Domains

To search a key, write a map with one of these kinds in place of its value. `choice` and `grid` can also search a whole
section. Their choices may contain domains, which are sampled in that choice only:

```yaml
graft: {choice: [null, {alpha: 0.5}, {level: filter, A: {uniform: [0.0, 1.0]}}]}
```

A key that has no effect under the other values of a trial is not sampled, and is null in `trials.parquet`. The meanings
below say which keys depend on others: with `alpha: {choice: [adaptive, 0.5]}`, only trials with adaptive alpha have
values of `graft.A` and `graft.c`. Optuna's gp and qmc need the same keys in every trial; they get a random value of
such a key, which has no effect and is not recorded. **tpe is the sampler for spaces with choices or such keys**: with a
choice, gp was worse than random samples after 16 and 32 trials
([figures](../benchmarks/2026-11-29_search_2-cores/README.md)).

"""
COMPARISON: Final = """\
## Comparisons

These keys, next to the sections, make a space a comparison. [Comparisons](methods/comparisons.md) explains them.

"""


def keys_markdown() -> str:
    """Return the reference: one heading per section, one row per key."""
    space, settings = space_schema(), settings_schema()
    sections = {name: section_of(node, settings) for name, node in settings["properties"].items()}
    keys = {name: node for name, node in settings["properties"].items() if sections[name] is None}
    parts = [
        HEAD,
        DOMAINS + _table("kind", "values", rows=((f"`{kind}`", node["description"]) for kind, node in KINDS.items())),
    ]
    parts.append("## Top level\n\n" + _keys("", keys, space["properties"]))
    for name, section in sections.items():
        if section is not None:
            node = settings["properties"][name]
            off = " Off if null or absent." if {"type": "null"} in parts_of(node) else ""
            searched = space["$defs"].get(f"Searched{class_of(node)}", {"properties": {}})["properties"]
            table = f"\n{_keys(name, section['properties'], searched)}" if section["properties"] else ""
            parts.append(f"## {name}\n\n{section['description']}{off}\n{table}")
            parts += _listed(name, section, settings)
    return "\n".join([*parts, COMPARISON + _table("key", "meaning", rows=_study_keys(space))])


def _study_keys(space: Schema) -> Iterator[tuple[str, str]]:
    """Yield the keys of a comparison, and those of its sections, with their meanings."""
    for key in STUDY_KEYS:
        node = space["properties"][key]
        yield f"`{key}`", node["description"]
        for name, value in (section_of(node, space) or {"properties": {}})["properties"].items():
            yield f"`{key}.{name}`", value["description"]


def _listed(name: str, section: Schema, settings: Schema) -> Iterator[str]:
    """Yield the tables of sections that are items of a section's lists."""
    for key, value in section["properties"].items():
        inner = section_of(value.get("items", {}), settings)
        if inner is not None:
            yield f"### Items of {name}.{key}\n\n{inner['description']}\n\n" + _keys("", inner["properties"], {})


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
    """Return the values that a key may have: choices, numbers with their range, or a type."""
    if class_of(value):
        return "a map"
    if value.get("type") == "object":
        return "a map of names to numbers, true, false, text or lists"
    if value.get("type") == "array":
        return ", ".join(filter(None, ("a list", range_in_words(value))))
    choices = [f"`{choice}`" for choice in choices_in(value)]
    number = number_in(value)
    if number is not None:
        whole = "whole number" if number["type"] == "integer" else "number"
        choices.append(f"{whole}, {range_in_words(value)}")
    kinds = {part.get("type") for part in parts_of(value) if not {"enum", "const"} & part.keys()}
    others = {"boolean": "true or false", "string": "text", "array": "a list", "null": "null"}
    patterns = [part["pattern"] for part in parts_of(value) if "pattern" in part]
    prefixes = [name for name in ("torchvision", "timm", "python") if any(name in pattern for pattern in patterns)]
    named = [f"`{name}:{'MODULE.NAME' if name == 'python' else 'NAME'}`" for name in prefixes]
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
    """Return the kinds of domain that can search a key."""
    parts = node.get("anyOf", ())
    if any("additionalProperties" in part and "properties" not in part for part in parts):
        return "each value by any domain"
    kinds = [kind for part in parts if "maxProperties" in part for kind in part["properties"]]
    return "any domain" if len(kinds) == len(KINDS) else ", ".join(kinds) or "not searched"
