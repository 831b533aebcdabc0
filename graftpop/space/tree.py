"""The plain data of a YAML file: read safely, changed by dotted keys."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from graftpop.errors import SpaceError, closest
from graftpop.settings import Settings

__all__ = ["apply_override", "known_keys", "put", "read_sections", "read_yaml"]


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that stands twice in one map is an error and not the last one's silent win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a map after looking for repeated keys."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str) -> Any:
    """Return the plain data of a YAML text.

    Raises:
        SpaceError: it is not valid YAML, or a key stands twice; the message begins with `where`.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise SpaceError(f"{where}:{line} not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpaceError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from error


def read_sections(text: str, where: str) -> dict[str, Any]:
    """Return the sections of a space's YAML text; none where it is empty.

    Raises:
        SpaceError: it is not valid YAML, or no map; the message begins with `where`.
    """
    tree = read_yaml(text, where) or {}
    if not isinstance(tree, dict):
        raise SpaceError(f"{where}: must be a map of sections, got {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> str:
    """Set `key=value` in a tree and return the key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SpaceError(f"--set {override}: must be KEY=VALUE, such as --set training.epochs=6")
    known = list(known_keys(Settings))
    if key not in known and key not in Settings.model_fields:
        in_full = [name for name in known if name.endswith(f".{key}")]
        raise SpaceError(f"--set {override}: unknown key '{key}'; keys are written "
                         f"section.key{closest(in_full[0] if in_full else key, known)}")
    put(tree, key, read_yaml(text, f"--set {override}"))
    return key


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key, making the sections on the way."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of a section and of those below it."""
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is None:
            yield prefix + name
        else:
            yield from known_keys(below, f"{prefix}{name}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class of a field, through `Section | None`."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
