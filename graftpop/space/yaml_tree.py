"""Plain data of a space as nested maps: values by path, merging, defaults, absolute paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space.domains import is_domain
from graftpop.space.keys import section_of

__all__ = ["copied", "make_paths_absolute_", "merged", "put", "value_at", "with_defaults"]

PATHS = ("root", "checkpoint", "density_of")
"""Keys whose values are paths, in any section."""


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in place, creating missing sections."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def copied(tree: Any) -> Any:
    """Return plain data with new maps and lists, at a third of the time that `copy.deepcopy` takes."""
    if isinstance(tree, dict):
        return {name: copied(value) for name, value in tree.items()}
    return [copied(item) for item in tree] if isinstance(tree, list) else tree


def merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree overlaid by another: maps are merged key by key, other values and lists are replaced."""
    result = dict(tree)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def with_defaults(tree: Mapping[str, Any], section: type[BaseModel] = Settings) -> dict[str, Any]:
    """Return a tree with defaults for missing keys, in the order of the settings; unknown keys come last."""
    full: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if name in tree:
            full[name] = with_defaults(tree[name], below) if below and isinstance(tree[name], dict) else tree[name]
        elif not field.is_required():
            default = field.default
            full[name] = default.model_dump() if isinstance(default, BaseModel) else field.get_default()
    return full | {name: value for name, value in tree.items() if name not in full}


def make_paths_absolute_(tree: Any) -> None:
    """Make all paths absolute in place, also in domains and variants, since peers run in other folders."""
    if isinstance(tree, list):
        for item in tree:
            make_paths_absolute_(item)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if name == "args" or f"{name}.".startswith("model.args."):  # passed to the network as they are
                continue
            is_path = str(name).rpartition(".")[2] in PATHS  # tune.first and published.scores have dotted keys
            if is_path and isinstance(value, str):
                tree[name] = _absolute(value, name)
            elif is_path and is_domain(value) and isinstance(values := next(iter(value.values())), list):
                values[:] = [_absolute(item, name) for item in values]
            else:
                make_paths_absolute_(value)


def _absolute(path: Any, name: str) -> Any:
    try:
        return str(Path(path).expanduser().absolute()) if isinstance(path, str) else path
    except RuntimeError as error:  # from a path such as ~nobody
        raise SpaceError(
            f"{name}: must not start with the home folder of an unknown user, got '{path}'; write the absolute path"
        ) from error


def value_at(tree: Any, names: Sequence[str], default: Any) -> Any:
    """Return the value at a path of nested maps: `default` if a name is missing, None below a null."""
    for name in names:
        if tree is None:
            return None
        if not isinstance(tree, Mapping) or name not in tree:
            return default
        tree = tree[name]
    return tree
