"""Populations of networks that exchange weights by entropy-weighted filter grafting, tuned by Ray Tune."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(folder: "str | Path") -> "nn.Module":
    """Return the trained network of a folder `RUN/best`; see `graftpop.learner.network_file.load_network`."""
    # torch takes seconds to import, and --help must not wait for it
    from graftpop.learner.network_file import load_network

    return load_network(folder)
