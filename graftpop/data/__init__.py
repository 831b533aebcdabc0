"""Data sets: found on disk, decoded once per node, and split for training."""

from graftpop.data.cifar import is_to_download
from graftpop.data.images import Images, MemoryImages, Recipe, Splits
from graftpop.data.loading import DATASETS, IDENTITIES, data_set, given_classes, given_splits, load_splits
from graftpop.data.streamed import StreamedImages

__all__ = [
    "DATASETS",
    "IDENTITIES",
    "Images",
    "MemoryImages",
    "Recipe",
    "Splits",
    "StreamedImages",
    "data_set",
    "given_classes",
    "given_splits",
    "is_to_download",
    "load_splits",
]
