"""What can go wrong in a way that a user can mend, and the one way to choose by name.

Every message reads *where: rule, got value; choices or next step* and fits on one line. The command line prints
it as it stands and exits with 2; anything else that is raised is a bug and keeps its traceback.
"""

import difflib
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

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
]

T = TypeVar("T")


class GraftpopError(Exception):
    """Base of all errors that carry a message for the user.

    Args:
        message: on one line; breaks that came in with a name or another's message are made blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class SpaceError(GraftpopError, ValueError):
    """A search space, or a setting, that cannot be accepted."""


class DataError(GraftpopError):
    """A data set that is absent, unreadable or does not fit its description."""


class ModelError(GraftpopError):
    """A network that is unknown or cannot take part in a population."""


class CheckpointError(GraftpopError):
    """A file or folder that is not the checkpoint, model or run it should be."""


class StorageError(GraftpopError):
    """Storage that could not be reached, or had no room, for too long."""


class ResourceError(GraftpopError):
    """A demand that the cluster can never meet, or a cluster that cannot be reached."""


class PeerError(GraftpopError):
    """What a peer had to say instead of a result."""


class PeerLost(PeerError):
    """Its process is gone, or it did not answer in time."""


class PeerDiverged(PeerError):
    """Its loss or its weights are no longer finite."""


class PopulationLost(GraftpopError):
    """A population cannot go on with the peers that are left; from its last round it can."""


class ResultLost(PeerError):
    """What it was called with is gone, with the process or the node that held it."""


class CollectiveError(PeerError):
    """It could not meet with the other peers: one of them did not come in time, was lost, or had failed before."""


def one_line(text: object) -> str:
    """Return what a library or a file says as one line of bounded length, for a message."""
    return " ".join(str(text).split())[:300]


def describe_exception(error: Exception) -> str:
    """Return in one line what the user's own code raised: the kind of error, its text, and their line, if the command
    was typed where the code lies.
    """
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    theirs = [
        f"{file.name}:{line}"
        for file, line in frames
        if Path.cwd() in file.parents
        and Path(__file__).parent not in file.parents
        and "site-packages" not in file.parts
    ]
    return f"{type(error).__name__}: {one_line(error)}" + (f" ({theirs[-1]})" if theirs else "")


def closest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the name most like the given one, or an empty string."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def choose(table: Mapping[str, T], name: str, what: str, error: type[GraftpopError] = SpaceError) -> T:
    """Return `table[name]`.

    Args:
        table: the choices.
        name: the one that is wanted.
        what: where the name was given, as the user would say it (`model.name`).
        error: the kind of error an unknown name raises.

    Raises:
        GraftpopError: no such name; the message lists the choices and the closest one.
    """
    if name in table:
        return table[name]
    raise error(f"{what}: unknown name '{name}'; choose from {', '.join(table)}{closest(name, table)}")
