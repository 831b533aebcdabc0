"""Omniglot: handwritten characters of 50 alphabets; those of the test set do not occur in training.

Source: Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction, Science
2015. Twenty people drew every character once; the drawer takes the place of the camera.
"""

import os
from dataclasses import replace
from pathlib import Path

from graftpop.data.parquet_identities import parquet_identities
from graftpop.data.source import Source, root_folder
from graftpop.errors import DataError
from graftpop.settings import DataSettings

__all__ = ["find_omniglot"]


def find_omniglot(data: DataSettings) -> Source:
    """Return Omniglot from Parquet files in `data.root`, or else in $GRAFTPOP_DATA/omniglot.

    Raises:
        DataError: it is not there.
    """
    shared = os.environ.get("GRAFTPOP_DATA")
    if data.root is None and not (shared and (Path(shared).expanduser() / "omniglot").is_dir()):
        raise DataError(
            f"data.name: omniglot needs its Parquet files (columns image or img, label, drawer), got no data.root and "
            f"GRAFTPOP_DATA {'without omniglot/' if shared else 'not set'}; set one of them"
        )
    folder = root_folder(data) if data.root is not None else Path(str(shared)).expanduser() / "omniglot"
    return replace(parquet_identities("omniglot", folder, data, camera="drawer"), flip=False)
