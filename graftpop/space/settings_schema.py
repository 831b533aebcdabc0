"""The settings as JSON Schema, with the names that stand in tables beside their functions, and what is read off it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from graftpop.settings import Settings

__all__ = [
    "Schema",
    "choices_in",
    "class_of",
    "number_in",
    "parts_of",
    "range_in_words",
    "section_of",
    "settings_schema",
]

Schema = dict[str, Any]
"""A JSON Schema, or a part of one."""

OTHER_LIBRARIES: Final = {"type": "string", "pattern": "^(torchvision|timm|python):.+"}


class _Untitled(GenerateJsonSchema):
    """Pydantic's generator, without a title a key, which would be its name again, and in the order of the settings."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def sort(self, value: Schema, parent_key: str | None = None) -> Schema:
        return value


def settings_schema() -> Schema:
    """Return the JSON Schema of `Settings`: a definition a section, a description a key.

    Keys that hold a name of a table have the names as choices.
    """
    schema = Settings.model_json_schema(schema_generator=_Untitled)
    for section in schema["$defs"].values():
        section.pop("title")
    for node in [schema, *schema["$defs"].values()]:
        for key in node["properties"].values():
            if "description" in key:
                key["description"] = " ".join(key["description"].split())
    for section, key, names in _tables():
        _put_names_(schema["$defs"][section]["properties"][key], names)
    return schema


def _tables() -> Iterable[tuple[str, str, list[Schema]]]:
    """Yield each class and key that holds a name, and what names there are."""
    # here, since the tables stand beside functions that need torch
    from graftpop.data import DATASETS
    from graftpop.models import MODELS
    from graftpop.ops.attenuation import FACTOR_SCHEDULES, RATE_SCHEDULES
    from graftpop.ops.criteria import CRITERIA
    from graftpop.ops.topology import TOPOLOGIES
    from graftpop.training.schedules import SCHEDULES

    tables: list[tuple[str, str, Mapping[str, object]]] = [
        ("DataSettings", "name", DATASETS),
        ("ModelSettings", "name", MODELS),
        ("TeacherSettings", "model", MODELS),
        ("TrainingSettings", "schedule", SCHEDULES),
        ("PopulationSettings", "topology", TOPOLOGIES),
        ("ReprSettings", "criterion", CRITERIA),
        ("AttenuationSettings", "criterion", CRITERIA),
        ("AttenuationSettings", "factor_schedule", FACTOR_SCHEDULES),
        ("AttenuationSettings", "rate_schedule", RATE_SCHEDULES),
    ]
    for section, key, table in tables:
        yield section, key, [{"type": "string", "enum": [*table]}, *([OTHER_LIBRARIES] if table is MODELS else [])]


def _put_names_(node: Schema, names: list[Schema]) -> None:
    """Replace text of any kind by some names."""
    others = [part for part in node.pop("anyOf", ()) if part["type"] != "string"]
    node.pop("type", None)
    if len(names) + len(others) == 1:
        node |= names[0]
    else:
        node["anyOf"] = [*names, *others]


def parts_of(value: Schema) -> list[Schema]:
    """Return the alternatives of a value; itself where it has none."""
    return list(value.get("anyOf", [value]))


def number_in(value: Schema) -> Schema | None:
    """Return what numbers a value may be: `type`, and its bounds; None where it is never one."""
    bounds = ("type", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    numbers = [part for part in parts_of(value) if part.get("type") in ("number", "integer")]
    return {name: numbers[0][name] for name in bounds if name in numbers[0]} if numbers else None


def choices_in(value: Schema) -> list[str]:
    """Return the words among which a value is chosen."""
    return [word for part in parts_of(value) for word in part.get("enum", [part["const"]] if "const" in part else ())]


def class_of(node: Schema) -> str:
    """Return the name of the definition that a section stands for; nothing where it is no section."""
    refs = [part["$ref"] for part in parts_of(node) if "$ref" in part]
    return str(refs[0]).rpartition("/")[2] if refs else ""


def section_of(node: Schema, schema: Schema) -> Schema | None:
    """Return the section that stands for a name at the top of the settings; None where the name is a key."""
    name = class_of(node)
    return schema["$defs"][name] if name else None


def range_in_words(value: Schema) -> str:
    """Return between which bounds numbers lie that a value, or what it lists, may be; nothing where there are none."""
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
