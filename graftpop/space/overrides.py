"""Overrides of a space: `--set KEY=VALUE`."""

from typing import Any

from graftpop.errors import SpaceError, choose, closest
from graftpop.settings import ComparisonSettings, Settings
from graftpop.space.domains import is_domain
from graftpop.space.keys import STUDY_KEYS, known_keys, maps_of_values
from graftpop.space.renamed import new_name
from graftpop.space.yaml_text import NOT_ON_ONE_LINE, read_yaml
from graftpop.space.yaml_tree import put, value_at

__all__ = ["apply_override"]

INSTEAD_OF = {"seed": "seeds", "seeds": "seed"}
"""Keys that exclude each other: an override of one removes the other."""


def apply_override(tree: dict[str, Any], override: str) -> str:
    """Apply `key=value` to a tree, or `variants.NAME.key=value` to one of its variants, and return the key.

    Raises:
        SpaceError: the override has another form, its key is unknown, or its value is not valid YAML.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if NOT_ON_ONE_LINE.search(override):
        raise SpaceError(
            f"--set {key[:60]!a}: must be one line without control characters; write lists as [1, 2], maps as {{a: 1}}"
        )
    if not equals or not key:
        raise SpaceError(f"--set {override}: must be KEY=VALUE, such as --set training.epochs=6")
    known = [*known_keys(Settings), *known_keys(ComparisonSettings)]
    sections, settings_key = _in_variant(tree, key, override) if key.startswith("variants.") else (tree, key)
    if (new := new_name(settings_key)) is not None:
        raise SpaceError(f"--set {override}: renamed to {new}; write {key.removesuffix(settings_key)}{new}")
    is_in_map = settings_key.startswith(tuple(f"{name}." for name in maps_of_values(Settings)))
    if settings_key not in (*known, *Settings.model_fields, *STUDY_KEYS) and not is_in_map:
        in_full = [name for name in known if name.endswith(f".{settings_key}")]
        raise SpaceError(
            f"--set {override}: unknown key '{settings_key}'; write it as "
            f"section.key{closest(in_full[0] if in_full else settings_key, known)}"
        )
    _check_sections_around(sections, settings_key, override)
    if key.startswith("task.") and isinstance(tree.get("task"), str):  # `put` would replace a task given by its name
        tree["task"] = {"name": tree["task"]}
    put(sections, settings_key, read_yaml(text, f"--set {override}"))
    tree.pop(INSTEAD_OF.get(key, ""), None)
    return key


def _in_variant(tree: dict[str, Any], key: str, override: str) -> tuple[dict[str, Any], str]:
    """Return the sections of the variant NAME, which may have dots, and the key of `variants.NAME.section.key`."""
    variants = tree["variants"] if isinstance(tree.get("variants"), dict) else {}
    rest = key.removeprefix("variants.")
    names = (name for name in map(str, variants) if f"{rest}.".startswith(f"{name}."))
    name = max(names, key=len, default=rest.partition(".")[0])
    if not isinstance(choose(variants, name, f"--set {override}: variants"), dict):
        variants[name] = {}
    return variants[name], rest[len(name) + 1 :]


def _check_sections_around(sections: dict[str, Any], key: str, override: str) -> None:
    """Check that no section around a key is searched as a whole: the key would go beside its domain."""
    names = key.split(".")
    for length in range(1, len(names)):
        if is_domain(domain := value_at(sections, names[:length], None)):
            section = ".".join(names[:length])
            raise SpaceError(
                f"--set {override}: {section} must not be searched as a whole if a key in it is set, got {domain}; set "
                f"{section} as a whole, or change its choices in the file"
            )
