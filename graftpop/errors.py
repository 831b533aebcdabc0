"""Errors that a user can fix, and the look-up of choices by name.

Every message has one line and the form *where: rule, got value; choices or next step*. The command line prints it
unchanged and exits with 2. Any other exception is a bug and keeps its traceback.
"""

import difflib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from graftpop.masking import masked_words

__all__ = [
    "CheckpointError",
    "DataError",
    "GraftpopError",
    "ResultLost",
    "CollectiveError",
    "ModelError",
    "PeerDiverged",
    "PeerError",
    "PeerLost",
    "PopulationLost",
    "ResourceError",
    "SpaceError",
    "StorageError",
    "choose",
    "closest",
    "one_line",
    "describe_exception",
    "printable",
]

T = TypeVar("T")


class GraftpopError(Exception):
    """Base of all errors that carry a message for the user.

    Args:
        message: one line; line breaks inside, e.g. from a file name, become blanks, characters that are not printable
            are removed, and the secrets of URLs are masked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(masked_words(printable(" ".join(message.splitlines()))))


class SpaceError(GraftpopError, ValueError):
    """A search space or a setting is invalid."""


class DataError(GraftpopError):
    """A data set is absent, unreadable, or does not fit its settings."""


class ModelError(GraftpopError):
    """A network is unknown, or cannot be used in a population."""


class CheckpointError(GraftpopError):
    """A file or folder is not the expected checkpoint, model or run."""


class StorageError(GraftpopError):
    """Storage stayed unreachable or full until the retries timed out."""


class ResourceError(GraftpopError):
    """The cluster can never provide the requested resources, or cannot be reached."""


class PeerError(GraftpopError):
    """A call to a peer failed."""


class PeerLost(PeerError):
    """The peer's process died, or did not answer in time."""


class PeerDiverged(PeerError):
    """The peer's loss or weights are not finite."""


class PopulationLost(GraftpopError):
    """A population has lost too many peers to continue; it can resume from its last round."""


class ResultLost(PeerError):
    """An argument of the call, an earlier result, is gone with the process or node that stored it."""


class CollectiveError(PeerError):
    """A collective operation failed: another peer was late, lost, or had failed before."""


UNPRINTABLE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # terminal sequences: colors, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # title, links
    r"|[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]"  # control characters except whitespace; lone surrogates
)


def printable(text: str) -> str:
    """Return a text without terminal sequences, control characters and lone surrogates; whitespace stays."""
    return UNPRINTABLE.sub("", text)


def one_line(text: object) -> str:
    """Return a text on one line of at most 300 printable characters, with the secrets of URLs masked, for a message."""
    return masked_words(" ".join(printable(str(text)).split()))[:300]


def describe_exception(error: Exception) -> str:
    """Return one line on an exception from user code: its class, its text, and the line of user code that raised it.

    Installed packages count as user code only if no other does.
    """
    library, torch = Path(sysconfig.get_path("stdlib")), sys.modules.get("torch")
    packages = {Path(str(file)).parent for file in (__file__, getattr(torch, "__file__", __file__))}
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    installed = [
        (file, line) for file, line in frames if packages.isdisjoint(file.parents) and _is_file_outside(file, library)
    ]
    own = [(file, line) for file, line in installed if "site-packages" not in file.parts]
    where = "".join(f" ({file.name}:{line})" for file, line in (own or installed)[-1:])
    return f"{type(error).__name__}: {one_line(error)}{where}"


def _is_file_outside(file: Path, library: Path) -> bool:
    """Return whether a frame has a file, outside the standard library; site-packages, a folder in it, is outside."""
    return file.is_absolute() and (library not in file.parents or "site-packages" in file.parts)


def closest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" with the most similar of `names`, or an empty string."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def choose(table: Mapping[str, T], name: str, where: str, error: type[GraftpopError] = SpaceError) -> T:
    """Return `table[name]`.

    Args:
        table: the choices by name.
        name: the requested one.
        where: key or option that gave the name (`model.name`), for messages.
        error: class of the error for an unknown name.

    Raises:
        GraftpopError: unknown name; the message lists the choices and the closest one.
    """
    if name in table:
        return table[name]
    raise error(f"{where}: unknown name '{name}'; choose from {', '.join(table)}{closest(name, table)}")
