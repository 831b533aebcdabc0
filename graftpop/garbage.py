"""Imports without the garbage collector, which passes over the objects of new modules again and again.

A sixth of the CPU time of `import torch` are such passes, and nothing in them is garbage.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collection"]


@contextmanager
def without_collection() -> Iterator[None]:
    """Pause the garbage collector for the imports in this block; later passes leave out the objects made so far."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
