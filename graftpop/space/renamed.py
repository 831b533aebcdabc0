"""Keys and values that version 0.2.0 and later renamed. An old name is refused; the message gives the new one."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from graftpop.errors import SpaceError
from graftpop.space.domains import DOMAINS

__all__ = ["RENAMED_KEYS", "RENAMED_VALUES", "check_renamed", "new_name"]

RENAMED_KEYS: Final = {
    "attenuation": "pruning",
    "data.limit": "data.max_train_images",
    "graft.scion": "graft.source",
    "measures": "diagnostics",
    "population.replace_limit_s": "population.replace_timeout_s",
    "population.round_limit_s": "population.round_timeout_s",
    "published.accuracy": "published.scores",
    "tune.log": "tune.trackers",
    "tune.search": "tune.sampler",
    "tune.storage": "tune.optuna_storage",
}
"""New key by old key. The name of a section applies to all of its keys."""

RENAMED_VALUES: Final = {
    "population.mode": {"wait_for_all": "sync", "no_wait": "async"},
    "tune.sampler": {"optuna": "tpe"},
}
"""New value by old value, by key."""


def new_name(key: str) -> str | None:
    """Return the new name of a key; None if it was not renamed.

    >>> new_name("measures.pairs")
    'diagnostics.pairs'
    """
    section = key.partition(".")[0]
    if section in RENAMED_KEYS:
        return RENAMED_KEYS[section] + key.removeprefix(section)
    return RENAMED_KEYS.get(key)


def check_renamed(tree: Mapping[str, Any], where: str, overridden: Mapping[str, str]) -> None:
    """Check that a space and its variants use no old name.

    Args:
        tree: plain data of a space; malformed parts are skipped, since other checks refuse them.
        where: name of the file, at the start of messages.
        overridden: options by the key or section that they set, at the start of messages instead of the file.

    Raises:
        SpaceError: a key or a value has an old name.
    """
    variants = tree.get("variants")
    trees = {"": tree, **{f"variants.{name}.": node for name, node in _items(variants)}}
    for prefix, sections in trees.items():
        for key, value in _keys(sections):
            origin = overridden.get(prefix + key) or overridden.get(key.partition(".")[0]) or where
            if (new := new_name(key)) is not None:
                raise SpaceError(f"{origin}: {prefix}{key}: renamed to {new}; write {prefix}{new}")
            for old in _values(value):
                if (new := RENAMED_VALUES.get(key, {}).get(old)) is not None:
                    raise SpaceError(f"{origin}: {prefix}{key}: {old} is renamed to {new}; write {new}")


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        yield from ((str(name), value) for name, value in node.items())


def _keys(sections: Any) -> Iterator[tuple[str, Any]]:
    """Yield each renamed section with None, and each `section.key` with its value."""
    for section, content in _items(sections):
        if section in RENAMED_KEYS:
            yield section, None
        yield from ((f"{section}.{name}", value) for name, value in _items(content))


def _values(value: Any) -> Iterator[str]:
    """Yield a value, or the values of a domain, if they are strings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in DOMAINS:
        content = next(iter(value.values()))
        yield from (item for item in content if isinstance(item, str)) if isinstance(content, list) else ()
