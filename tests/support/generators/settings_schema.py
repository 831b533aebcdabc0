"""The settings as JSON Schema, with the names of lookup tables as choices, and functions that read the schema."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from graftpop.settings import Settings
from graftpop.settings.section import Section
from graftpop.space.conditions import dependent_keys

__all__ = [
    "Schema",
    "choices_in",
    "class_of",
    "number_in",
    "parts_of",
    "range_in_words",
    "schema_of",
    "section_of",
    "settings_schema",
]

Schema = dict[str, Any]
"""A JSON Schema, or part of one."""

OTHER_LIBRARIES: Final = {"type": "string", "pattern": "^(torchvision|timm|python):.+"}
USER_NAME: Final = {"type": "string", "pattern": "^python:.+"}


class _Untitled(GenerateJsonSchema):
    """Pydantic's generator without titles, which repeat the keys, and in the order of the settings."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def sort(self, value: Schema, parent_key: str | None = None) -> Schema:
        return value


def schema_of(section: type[Section]) -> Schema:
    """Return the JSON Schema of a section: one definition per section inside it, one description per key."""
    schema = section.model_json_schema(schema_generator=_Untitled)
    for node in [schema, *schema["$defs"].values()]:
        node.pop("title")
        for key in node["properties"].values():
            if "description" in key:
                key["description"] = " ".join(key["description"].split())
            for part in parts_of(key):
                if "patternProperties" in part:  # pydantic lets other names pass
                    part["additionalProperties"] = False
    return schema


def settings_schema() -> Schema:
    """Return the JSON Schema of `Settings`.

    A key whose value is looked up in a table has the table's names as choices. The description of a key that needs
    others names them.
    """
    schema = schema_of(Settings)
    for section, key, names in _tables(schema):
        _put_names_(schema["$defs"][section]["properties"][key], names)
    for path, conditions in dependent_keys().items():
        section, _, key = path.partition(".")
        node = schema["$defs"][class_of(schema["properties"][section])]["properties"][key]
        needed = " and ".join(f"{on.key}: {' or '.join(map(_in_words, on.values))}" for on in conditions)
        node["description"] += f" Only with {needed}."
    return schema


def _in_words(value: str | None) -> str:
    """Return a value of `OnlyWith`; a prefix such as `timm:` stands for every name that begins with it."""
    return "null" if value is None else f"{value}NAME" if value.endswith(":") else value


def _tables(schema: Schema) -> Iterable[tuple[str, str, list[Schema]]]:
    """Yield the class and the key of each value that is looked up in a table, and the table's names as schemas."""
    # imported here, since the tables hold functions that need torch
    from graftpop.data import DATASETS, IDENTITIES
    from graftpop.models import MODELS
    from graftpop.space.constraints import NAME_TABLES, USER_CODE
    from graftpop.space.torch_constraints import CRITERION_TABLES

    by_key: dict[str, Mapping[str, object]] = {
        "data.name": {**DATASETS, **IDENTITIES},
        "model.name": MODELS,
        **NAME_TABLES,
        **CRITERION_TABLES,
    }
    tables: list[tuple[str, str, Mapping[str, object]]] = [("TeacherSettings", "model", MODELS)]
    for path, table in by_key.items():
        section, _, key = path.partition(".")
        tables.append((class_of(schema["properties"][section]), key, table))
    user_code = {(class_of(schema["properties"][path.partition(".")[0]]), path.partition(".")[2]) for path in USER_CODE}
    for section, key, table in tables:
        patterns = (
            [OTHER_LIBRARIES]
            if table is MODELS
            else [USER_NAME]
            if (section, key) in user_code or key == "name"
            else []
        )
        yield section, key, [{"type": "string", "enum": [*table]}, *patterns]


def _put_names_(node: Schema, names: list[Schema]) -> None:
    """Replace the type string of a key by schemas of names, in place."""
    others = [part for part in node.pop("anyOf", ()) if part["type"] != "string"]
    node.pop("type", None)
    if len(names) + len(others) == 1:
        node |= names[0]
    else:
        node["anyOf"] = [*names, *others]


def parts_of(value: Schema) -> list[Schema]:
    """Return the alternatives of a value's schema, or the schema itself if it has none."""
    return list(value.get("anyOf", [value]))


def number_in(value: Schema) -> Schema | None:
    """Return type and bounds of the numbers that a value may be; None if it cannot be a number."""
    bounds = ("type", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    numbers = [part for part in parts_of(value) if part.get("type") in ("number", "integer")]
    return {name: numbers[0][name] for name in bounds if name in numbers[0]} if numbers else None


def choices_in(value: Schema) -> list[str]:
    """Return the strings that a value may be, if they are enumerated."""
    return [word for part in parts_of(value) for word in part.get("enum", [part["const"]] if "const" in part else ())]


def class_of(node: Schema) -> str:
    """Return the name of the definition that a schema refers to; empty if it refers to none."""
    refs = [part["$ref"] for part in parts_of(node) if "$ref" in part]
    return str(refs[0]).rpartition("/")[2] if refs else ""


def section_of(node: Schema, schema: Schema) -> Schema | None:
    """Return the definition that a schema refers to; None if it refers to none."""
    name = class_of(node)
    return schema["$defs"][name] if name else None


def range_in_words(value: Schema) -> str:
    """Return the range of a number, or of the items of a list, such as "in [0, 1)"; empty if there is none."""
    if value.get("type") == "array":
        parts = ["one or more"] * (value.get("minItems") == 1)
        inner = range_in_words(value["items"])
        return ", ".join([*parts, *([f"each {inner}"] if inner else [])])
    number = number_in(value) or {}
    low, high = (
        next((number[name] for name in names if name in number), None)
        for names in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
    )
    if high is not None:
        start, end = "[" if "minimum" in number else "(", "]" if "maximum" in number else ")"
        return f"in {start}{low}, {'2**63' if high == 2**63 else high}{end}"
    if low is None:
        return ""
    return f"{low} or more" if "minimum" in number else f"above {low}"
