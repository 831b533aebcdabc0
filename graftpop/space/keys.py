"""The dotted keys of a space, such as `training.lr`, read from the fields of the settings."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from graftpop.settings import ComparisonSettings, Settings

__all__ = ["STUDY_KEYS", "default_of", "keys_named", "known_keys", "maps_of_values", "names_at", "section_of"]

STUDY_KEYS = tuple(ComparisonSettings.model_fields)
"""Top-level keys besides the sections; they make a space a comparison."""


def known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and of the sections below it."""
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is None or _is_open(below):
            yield prefix + name
        else:
            yield from known_keys(below, f"{prefix}{name}.")


def keys_named(name: str) -> list[str]:
    """Return the dotted keys of the settings that end with a name; for a section that has a name, the key of that.

    >>> keys_named("patience"), keys_named("model"), keys_named("optimizer")
    (['training.patience'], ['model.name'], ['training.optimizer.name'])
    """
    found = [key for key in known_keys(Settings) if f".{key}".endswith(f".{name}") or key == f"{name}.name"]
    return [key if default_of(f"{key}.name") is None else f"{key}.name" for key in found]


def maps_of_values(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys whose value is a map of further names, such as `model.args` and `training.optimizer`."""
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is not None and _is_open(below):
            yield prefix + name
        elif below is not None:
            yield from maps_of_values(below, f"{prefix}{name}.")
        elif get_origin(field.annotation) is dict:
            yield prefix + name


def _is_open(section: type[BaseModel]) -> bool:
    """Return whether a section may have keys of any name besides its own."""
    return section.model_config.get("extra") == "allow"


def names_at(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys that a map may have at a path of the settings, such as ("distillation", "teachers", 0)."""
    section: Any = ComparisonSettings if path and path[0] in STUDY_KEYS else Settings
    for part in path:
        annotation = section.model_fields[part].annotation if isinstance(part, str) else section
        section = section_of(annotation) or get_args(annotation)[0]
    return [*section.model_fields, *(() if path else STUDY_KEYS)]


def default_of(key: str) -> Any:
    """Return the default of a `section.key`; None for an argument, such as `training.optimizer.betas`."""
    below: type[BaseModel] | None = Settings
    *sections, name = key.split(".")
    for section in sections:
        below = section_of(below.model_fields[section].annotation) if below else None
    field = below.model_fields.get(name) if below else None
    return field.get_default() if field else None


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class of a field typed `Section` or `Section | None`; None for other fields and for lists."""
    candidates = () if get_origin(annotation) is list else get_args(annotation)
    for candidate in (annotation, *candidates):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
