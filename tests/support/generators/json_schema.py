"""The JSON Schema of a space file, by which an editor checks, completes and explains keys.

The schema covers each key alone, not the rules between keys (`graftpop.space.constraints`). Each class of the settings
is a definition of the same name. If its values may be domains, there is a second one, such as `SearchedGraftSettings`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from generators.settings_schema import Schema, class_of, number_in, schema_of, settings_schema

from graftpop.settings import ComparisonSettings, Settings
from graftpop.space.comparison_keys import SECTIONS
from graftpop.space.domains import DOMAINS
from graftpop.space.domains_in_tree import OF_TASK, SEARCHABLE
from graftpop.space.keys import known_keys, maps_of_values

__all__ = ["KINDS", "schema_text", "space_schema"]

NULL: Final = {"type": "null"}
LISTED: Final = ("choice", "grid")
WIDTH: Final = 120
KINDS: Final[Mapping[str, Schema]] = {
    name: {
        "description": kind.meaning,
        "type": "array",
        "minItems": kind.num_values or 1,
        **({"maxItems": kind.num_values} if kind.num_values else {"uniqueItems": True}),
    }
    for name, kind in DOMAINS.items()
}
"""The schema of each kind of domain, without the schema of its values."""


def space_schema() -> Schema:
    """Return the JSON Schema (2020-12) of a space file: all sections and keys, with domains for searchable keys.

    Each key has its description, its range or choices, and its default. Names from lookup tables are choices; names of
    networks may also match `torchvision:NAME`, `timm:NAME` or `python:MODULE.CLASS`.
    """
    settings, comparison = settings_schema(), _comparison()
    fixed, top = settings["$defs"], settings["properties"]
    required = {name: fixed[class_of(node)].get("required", []) for name, node in top.items() if class_of(node)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": "A search space of graftpop.",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _at_top(name, node, fixed) for name, node in top.items()} | comparison["properties"],
        "if": {"required": ["variants"]},  # variants may set the keys that a section requires
        "else": {
            "properties": {
                name: {"anyOf": [*({"required": [key]} for key in (*keys, *LISTED)), NULL]}
                for name, keys in required.items()
                if keys
            }
        },
        "$defs": fixed
        | {
            f"Searched{name}": _with_domains(section, fixed[name], f"#/$defs/{name}")
            for section in SEARCHABLE
            for name in _classes_in(top[section], fixed)
        }
        | comparison["$defs"]
        | {"Variant": _variant(top, fixed), **KINDS},
    }


def schema_text(node: Any, indent: int = 0) -> str:
    """Return a schema as JSON text; a node that fits on one line is not broken up."""
    line = json.dumps(node)
    if len(line) + indent <= WIDTH or not isinstance(node, dict | list):
        return line
    blanks = " " * (indent + 2)
    if isinstance(node, dict):
        parts = [f"{blanks}{json.dumps(name)}: {schema_text(part, indent + 2)}" for name, part in node.items()]
    else:
        parts = [f"{blanks}{schema_text(part, indent + 2)}" for part in node]
    start, end = "{}" if isinstance(node, dict) else "[]"
    return "\n".join([start, ",\n".join(parts), f"{' ' * indent}{end}"])


def _at_top(name: str, node: Schema, fixed: Schema) -> Schema:
    """Return the schema of a name at the top of a file."""
    section = class_of(node)
    null = [NULL] if NULL in node.get("anyOf", ()) else []
    description = {"description": fixed[section]["description"] if section else node["description"]}
    value = {"$ref": f"#/$defs/{section}"} if section else {key: node[key] for key in node if key not in description}
    if name not in SEARCHABLE:
        return description | value
    if not section:
        return description | {"anyOf": [value, _domain(value, {"$ref": f"#/properties/{name}/anyOf/0"})]}
    searched: Schema = {"$ref": f"#/$defs/Searched{section}"}
    required = {"required": fixed[section]["required"]} if "required" in fixed[section] else {}
    choice: Schema = {"anyOf": [searched | required, *null]}
    return description | {"anyOf": [searched, *null, *([] if name in OF_TASK else [_domain(choice, choice)])]}


def _classes_in(node: Schema, fixed: Schema) -> Iterator[str]:
    """Yield the class of a section and the classes of the sections inside it."""
    if name := class_of(node):
        yield name
        for value in fixed[name]["properties"].values():
            yield from _classes_in(value, fixed)


def _with_domains(top: str, section: Schema, ref: str) -> Schema:
    """Return a section whose values may be domains. No key is required, since variants may set it.

    Args:
        top: name of the section at the top of a file, which is this one or holds it.
        section: schema of the section.
        ref: a reference to that schema.
    """
    ranges = top != "data"
    keys = {}
    for key, value in section["properties"].items():
        inner = class_of(value)
        own: Schema = {"$ref": f"#/$defs/Searched{inner}" if inner else f"{ref}/properties/{key}"}
        searched = own
        if "additionalProperties" in value:
            item, one = value["additionalProperties"], {"$ref": f"{ref}/properties/{key}/additionalProperties"}
            pattern = {
                "pattern": rf"^(?!({'|'.join(DOMAINS)})$)[A-Za-z_]\w*$"
            }  # a map of one kind is a domain of the whole
            values = {"anyOf": [one, _domain(item, one, ranges=ranges)]}
            searched = {"type": "object", "propertyNames": pattern, "additionalProperties": values}
        domain = [] if f"{top}.{key}" in OF_TASK else [_domain(value, own, ranges=ranges)]
        # repeats the description of `own`, since editors look for it here when they complete the key
        keys[key] = {"description": value["description"], "anyOf": [searched, *domain]}
    # in an open section, a map of one kind would be a section with an argument of that name
    names = {"propertyNames": {"not": {"enum": [*DOMAINS]}}} if section.get("additionalProperties") else {}
    return {name: section[name] for name in section if name != "required"} | {"properties": keys} | names


def _domain(value: Schema, own: Schema, *, ranges: bool = True) -> Schema:
    """Return the schema of the domains by which a key can be searched.

    Args:
        value: schema of the key's value.
        own: a reference to that schema.
        ranges: whether domains with low and high are allowed.
    """
    kinds: dict[str, Schema] = {kind: {"items": own} for kind in LISTED}
    number = number_in(value) if ranges else None
    if number is not None and number["type"] == "number":
        some = own | {"type": "number"}
        above_0 = {"type": "number", "exclusiveMinimum": 0}
        kinds |= {
            "uniform": {"items": some},
            "loguniform": {"items": own | above_0},
            "quniform": {"prefixItems": [some, some, above_0]},
        }
    if number is not None:
        kinds["randint"] = {"items": own | {"type": "integer"}}
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {kind: {"$ref": f"#/$defs/{kind}", **items} for kind, items in kinds.items()},
    }


def _variant(top: Schema, fixed: Schema) -> Schema:
    """Return the schema of a variant: its values are fixed, and no section requires a key."""
    sections: dict[str, Schema] = {}
    for name in SECTIONS:
        if not class_of(top[name]):
            sections[name] = {"$ref": f"#/properties/{name}/anyOf/0"}  # a single value; the other is a domain
            continue
        ref = f"#/$defs/{class_of(top[name])}"
        keys = fixed[class_of(top[name])]["properties"]
        whole = {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: {"$ref": f"{ref}/properties/{key}"} for key in keys},
        }
        of_class = whole if "required" in fixed[class_of(top[name])] else {"$ref": ref}
        sections[name] = {"anyOf": [of_class, NULL]} if NULL in top[name].get("anyOf", ()) else of_class
    return {"type": "object", "additionalProperties": False, "properties": sections}


def _comparison() -> Schema:
    """Return the schema of the keys that make a space a comparison."""
    schema = schema_of(ComparisonSettings)
    variants, row = schema["properties"]["variants"]["anyOf"][0], schema["$defs"]["PublishedScore"]
    variants |= {"additionalProperties": False}
    variants["patternProperties"] = {
        name: {"anyOf": [{"$ref": "#/$defs/Variant"}, NULL]} for name in variants["patternProperties"]
    }
    searched = [key for key in (*SEARCHABLE, *known_keys(Settings)) if key.split(".")[0] in SEARCHABLE]
    maps = "|".join(re.escape(key) for key in maps_of_values(Settings))
    row["propertyNames"] = {
        "anyOf": [
            {"enum": [*row["properties"], *(key for key in searched if key not in ("seed", *OF_TASK))]},
            {"pattern": rf"^({maps})\."},
        ]
    }
    return schema
