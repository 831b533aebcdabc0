"""Weights that every peer starts from: a run's best network, a file of weights, or published weights.

Peers train on images with the normalization of these weights, so that no layer is added to their network, and its card
describes the input. A plain file of weights is assumed to have the data set's normalization.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.models import TORCHVISION
from graftpop.models.catalog import INCEPTIONS
from graftpop.models.network_file import read_card_and_weights
from graftpop.models.normalization import Normalization
from graftpop.models.published import published_weights
from graftpop.models.weight_comparison import another_network, compare_weights
from graftpop.models.weight_file import check_exists, read_any_weights
from graftpop.seeds import seeded
from graftpop.settings import ModelSettings

__all__ = ["Start", "find_start"]

HALF: Final = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

AUXILIARY: Final = "AuxLogits."
"""Prefix of the auxiliary output of torchvision's Inception v3, which comes with its published weights only."""


class Start(NamedTuple):
    """Weights that every peer starts from.

    Attributes:
        where: key and name or path of the weights, for messages.
        normalization: normalization of the images; None: that of the data's recipe.
        read: returns the state_dict; downloads published weights, unless cached.
        has_head: whether the weights include an output layer.
    """

    where: str
    normalization: Normalization | None
    read: Callable[[], Mapping[str, Tensor]]
    has_head: bool = True

    def load_into_(self, network: nn.Module, num_classes: int, name: str) -> str | None:
        """Load the weights into a new network; return a note if an output layer for other classes stays new.

        Args:
            network: network with initial weights, which such an output layer keeps.
            num_classes: number of classes of the network.
            name: name of the network, for messages.

        Raises:
            CheckpointError: the weights are absent, damaged, or belong to another network.
            ModelError: published weights cannot be downloaded.
        """
        weights = dict(self.read())
        found = compare_weights(network, weights, num_classes, has_head=self.has_head)
        if found.differences:
            raise CheckpointError(
                f"{self.where}: {another_network(name, found.differences)}; set model.name and model.args to its "
                f"network"
            )
        own = network.state_dict()
        network.load_state_dict({**own, **weights, **{key: own[key] for key in found.head}})
        if not found.head:
            return None
        old = f"its output layer of {found.num_classes} classes is" if found.num_classes else "its output layer is"
        return f"{self.where}: {old} new, with {num_classes} classes: {', '.join(found.head)}"


def find_start(model: ModelSettings) -> Start | None:
    """Return the weights that every peer starts from; None if it starts from initial weights.

    Raises:
        CheckpointError: `checkpoint` is absent or damaged.
        ModelError: no weights are published for the network.
    """
    if model.pretrained:
        is_inception = model.name.removeprefix(TORCHVISION) in INCEPTIONS
        args = {**({"transform_input": False} if is_inception else {}), **model.args}
        published = published_weights(model.name, args, "model.name", "model.pretrained")
        # these convert ImageNet's normalization to their own, unless transform_input is false as in a new network
        own = HALF if is_inception and not args["transform_input"] else published.normalization

        def read() -> Mapping[str, Tensor]:
            with seeded(0, torch.device("cpu")):  # soon replaced weights must not advance the generator
                weights = published.load().state_dict()
            return {name: tensor for name, tensor in weights.items() if not name.startswith(AUXILIARY)}

        return Start(published.where, own, read, has_head=published.num_classes > 0)
    if model.checkpoint is None:
        return None
    place, where = Path(model.checkpoint), "model.checkpoint"
    check_exists(place, where)
    try:
        if not place.is_dir():
            weights = read_any_weights(place)
            return Start(f"{where}: {place}", None, lambda: weights)
        card, weights = read_card_and_weights(place)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return Start(f"{where}: {place}", Normalization(card.mean, card.std), lambda: weights)
