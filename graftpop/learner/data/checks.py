"""What is checked, or put on one line, of names and texts that come with the data."""

import os
from pathlib import Path

from graftpop.errors import DataError

__all__ = ["check_inside", "one_line"]


def check_inside(path: Path, root: Path) -> None:
    """Check that a file or folder lies in a data set's folder, wherever links lead.

    Raises:
        DataError: it does not.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(f"{path}: must lie in {root}, got a link to {os.path.realpath(path)}; copy what it points to, "
                        "or set data.root to a folder that holds both")


def one_line(text: object) -> str:
    """Return what a library or a file says as one line of bounded length, for a message."""
    return " ".join(str(text).split())[:300]
