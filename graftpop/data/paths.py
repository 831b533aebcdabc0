"""What is checked of names that come with the data."""

import os
from pathlib import Path

from graftpop.errors import DataError

__all__ = ["check_inside"]


def check_inside(path: Path, root: Path) -> None:
    """Check that a file or folder lies in a data set's folder, wherever links lead.

    Raises:
        DataError: it does not.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{path}: must lie in {root}, got a link to {os.path.realpath(path)}; copy what it points to, "
            "or set data.root to a folder that holds both"
        )
