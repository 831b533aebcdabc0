"""Data sets: found on disk, decoded once per node, and split for training."""

from graftpop.data.images import Images, MemoryImages, Recipe, Splits
from graftpop.data.splits import DATASETS, load_splits
from graftpop.data.streamed import StreamedImages

__all__ = ["DATASETS", "Images", "load_splits", "MemoryImages", "Recipe", "Splits", "StreamedImages"]
