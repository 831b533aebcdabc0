"""What a peer is made of: its network, its images and its optimizer, by the names in the settings or a user's own."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from graftpop.data import Splits, load_splits
from graftpop.models import find_model
from graftpop.settings import Settings
from graftpop.training.optimizers import MakeOptimizer

__all__ = ["Components", "named_components"]


@dataclass(frozen=True)
class Components:
    """What a peer is made of. Every peer has its own of each, made in its process.

    Attributes:
        make_network: from the number of classes to a new network, its weights from torch's global generator.
        make_splits: from the number of processes that may read to the images.
        make_optimizer: from parameters to their optimizer; None: SGD as the settings have it.
    """

    make_network: Callable[[int], nn.Module]
    make_splits: Callable[[int], Splits]
    make_optimizer: MakeOptimizer | None = None


def named_components(settings: Settings) -> Components:
    """Return the parts that the settings name."""
    return Components(
        find_model(settings.model.name),
        lambda num_workers: load_splits(settings.data, seed=settings.seed, num_workers=num_workers),
    )
