"""Checks of paths that come with a data set."""

import os
from pathlib import Path

from graftpop.errors import DataError

__all__ = ["check_inside"]


def check_inside(path: Path, root: Path) -> None:
    """Check that a path, with links resolved, is inside a data set's folder.

    Args:
        path: a file or folder.
        root: folder of the data set.

    Raises:
        DataError: it leads out of `root`.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{path}: must be inside {root}, got a link to {os.path.realpath(path)}; copy its target there, "
            "or set data.root to a folder that holds both"
        )
