"""The components of a peer (network, data, task, optimizer), named by the settings or user-defined."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graftpop.data import Splits, load_splits
from graftpop.models import find_model
from graftpop.models.card import ModelCard
from graftpop.models.start import find_start
from graftpop.settings import Settings
from graftpop.tasks.find import make_task
from graftpop.tasks.task import Task
from graftpop.training.optimizers import MakeOptimizer

__all__ = ["Components", "named_components"]

logger = logging.getLogger("graftpop")


def named_task(settings: Settings) -> Task:
    """Return the task that the settings name."""
    return make_task(settings.task)


@dataclass(frozen=True)
class Components:
    """Functions that create a peer's components, called once per peer in its process.

    Attributes:
        make_network: function from the number of outputs to a new network, with weights from torch's global generator.
        make_splits: function from the peer's settings and the number of reader processes to the data.
        make_optimizer: function from parameters to their optimizer; None: the one that the settings name.
        make_task: function from the peer's settings to a new task.
        user_parts: user-defined parts of the exchange, by key of the settings: `exchange`, `graft.alpha`,
            `graft.criterion`; parts that are named in the settings but absent here are imported.
    """

    make_network: Callable[[int], nn.Module]
    make_splits: Callable[[Settings, int], Splits]
    make_optimizer: MakeOptimizer | None = None
    make_task: Callable[[Settings], Task] = named_task
    user_parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def named_components(settings: Settings, trained: ModelCard | None = None) -> Components:
    """Return the components that the settings name; the peers' processes log the notes on data and network.

    Args:
        settings: the population's settings.
        trained: card of a trained peer whose state is loaded next; the weights to start from are then not needed.

    Raises:
        CheckpointError: `model.checkpoint` cannot be read.
        ModelError: the network or its published weights do not exist.
    """
    model = settings.model
    make = find_model(model.name, args=model.args)
    start = find_start(model) if trained is None else None
    source = trained or (start.normalization if start is not None else None)

    def make_network(num_classes: int) -> nn.Module:
        network = make(num_classes)
        if start is not None and (note := start.load_into_(network, num_classes, model.name)):
            logger.warning("%s", note)
        return network

    def make_splits(of_peer: Settings, num_workers: int) -> Splits:
        splits = load_splits(
            of_peer.data,
            seed=of_peer.seed,
            num_workers=num_workers,
            task=of_peer.task,
            augmentation=of_peer.augmentation,
            mean_std=None if source is None else (source.mean, source.std),
        )
        for note in splits.notes:
            logger.warning("%s", note)
        return splits

    return Components(make_network, make_splits)
