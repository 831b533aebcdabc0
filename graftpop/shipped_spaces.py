"""The search spaces that ship with the package, by name: `digits`, `papers/clr_rnf`."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

__all__ = ["complete_space", "find_space", "shipped_schema", "shipped_spaces", "summary"]

SUFFIX: Final = ".yaml"


@cache
def shipped_spaces() -> Mapping[str, Traversable]:
    """Return the shipped spaces by name: those of the folder itself first, then those of its folders."""
    folder = files("graftpop") / "search_spaces"  # in a checkout a link to the folder of that name at its top
    folders = {"": folder, **{f"{entry.name}/": entry for entry in folder.iterdir() if entry.is_dir()}}
    return {
        prefix + name.removesuffix(SUFFIX): folders[prefix] / name
        for prefix in sorted(folders)
        for name in sorted(entry.name for entry in folders[prefix].iterdir())
        if name.endswith(SUFFIX)
    }


def shipped_schema() -> Traversable:
    """Return the file of the JSON Schema of a space, which is generated from the settings."""
    return files("graftpop") / "search_spaces" / "schema.json"


def find_space(name: str) -> Path | Traversable:
    """Return the file of a space.

    Args:
        name: path of a file, which wins, or the name of a shipped space. Anything else is returned as a path.
    """
    path = Path(name)
    return shipped_spaces().get(name, path) if path.is_dir() or not path.exists() else path


def summary(text: str) -> str:
    """Return the first sentence of the comment at the top of a space's YAML text, without its period."""
    lines = text.splitlines()[1:]  # after the line that names the schema
    comment = lines[: next((number for number, line in enumerate(lines) if not line.startswith("# ")), None)]
    return " ".join(line.removeprefix("# ") for line in comment).partition(". ")[0].removesuffix(".")


def complete_space(incomplete: str) -> list[str]:
    """Return the shipped spaces that the shell offers for the beginning of a name; where none fits, it offers files."""
    return [name for name in shipped_spaces() if name.startswith(incomplete)]
