"""User code named in a space, `python:MODULE.NAME`: imported only when the user names it."""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any, Final

from graftpop.errors import GraftpopError, closest, describe_exception

__all__ = ["PYTHON", "import_user_code", "is_importable", "name_of"]

PYTHON: Final = "python:"
"""Prefix of the name of user code: `python:MODULE.NAME`."""


def import_user_code(name: str, where: str, error: type[GraftpopError]) -> Any:
    """Import a module, from the working directory too, and return its attribute.

    Args:
        name: `python:MODULE.NAME`.
        where: key where the name was given, for messages.
        error: class of the error to raise.

    Raises:
        GraftpopError: of class `error`; the module cannot be imported, or lacks the attribute.
    """
    module, _, attribute = name.removeprefix(PYTHON).rpartition(".")
    _add_working_directory()
    if not module:
        return None
    try:
        found = importlib.import_module(module)
    except (ImportError, AttributeError) as reason:
        raise error(
            f"{where}: '{name}' cannot be imported: {reason}; start the command in the folder of {module}, "
            f"or install it on every node"
        ) from reason
    except Exception as reason:  # user code may raise anything
        raise error(f"{where}: '{name}' cannot be imported: {describe_exception(reason)}; fix {module}") from reason
    if not hasattr(found, attribute):
        names = [other for other in vars(found) if not other.startswith("_")]
        raise error(f"{where}: '{name}': '{module}' has no '{attribute}'; correct the name{closest(attribute, names)}")
    return getattr(found, attribute)


def is_importable(name: str) -> bool:
    """Return whether the module of `python:MODULE.NAME` is found; only the packages that contain it are imported."""
    _add_working_directory()
    try:
        return find_spec(name.removeprefix(PYTHON).rpartition(".")[0]) is not None
    except (ImportError, ValueError):  # from a package around it; from an empty name
        return False


def _add_working_directory() -> None:
    if os.getcwd() not in sys.path:  # `python -m` adds it, the `graftpop` script does not
        sys.path.insert(0, os.getcwd())


def name_of(part: object) -> str:
    """Return `python:MODULE.NAME` of a class or function; it need not be importable by that name."""
    return f"{PYTHON}{getattr(part, '__module__', 'user')}.{getattr(part, '__qualname__', type(part).__qualname__)}"
