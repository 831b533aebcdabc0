"""A peer's network after training: filters removed, soup, cost, and the model card."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graftpop.data import Splits
from graftpop.models.card import ModelCard
from graftpop.models.flops import count_flops, count_parameters
from graftpop.ops.soups import greedy_soup, uniform_soup
from graftpop.rows import TrialRow
from graftpop.settings import Settings
from graftpop.sites import Site
from graftpop.training.learner import Learner
from graftpop.training.removal import remove_dropped
from graftpop.training.snapshot import Snapshot

__all__ = ["FinalNetwork", "accuracy"]


class FinalNetwork:
    """A trained peer's network, its changes after training, and its description.

    Args:
        learner: the peer's learner, with the network.
        sites: sites of the network.
        splits: the peer's images.
        settings: the population's settings.

    Attributes:
        small: the network without its dropped filters; None until some were removed.
    """

    def __init__(self, learner: Learner, sites: list[Site], splits: Splits, settings: Settings) -> None:
        self.small: nn.Module | None = None
        self._learner, self._sites, self._splits, self._settings = learner, sites, splits, settings
        self._num_removed = 0

    def remove_dropped(self) -> None:
        """Cut dropped filters out of a copy of the network, if the settings say so."""
        if self._settings.attenuation is not None and self._settings.attenuation.remove:
            self.small, self._num_removed = remove_dropped(
                self._learner.network, self._sites, self._splits.image_shape, self._settings.model.name
            )

    def make_soup(self, kind: str, snapshots: Sequence[Snapshot]) -> None:
        """Replace the weights by a mean of snapshots, with new BatchNorm statistics.

        Args:
            kind: `uniform_soup` averages all, `greedy_soup` those that do not lower the validation accuracy.
            snapshots: the peers' snapshots, the most accurate first.
        """
        weights = [torch.tensor(snapshot.weights) for snapshot in snapshots]
        soup = uniform_soup(weights) if kind == "uniform_soup" else greedy_soup(weights, self._val_accuracy_of)
        self._set_weights(soup)

    def _set_weights(self, weights: Tensor) -> None:
        self._learner.state.buffer.copy_(weights)
        self._learner.recalibrate()

    def _val_accuracy_of(self, weights: Tensor) -> float:
        self._set_weights(weights)
        logits, labels = self._learner.evaluate(self._splits.val, exact=False)
        return accuracy(logits.argmax(1), labels)

    def cost(self) -> TrialRow:
        """Return the network's parameters and FLOPs for one image, and both after removal if filters were removed."""
        shape = self._splits.image_shape
        network = self._learner.network
        cost: TrialRow = {"parameters": count_parameters(network), "flops": count_flops(network, shape)}
        if self.small is not None:
            cost |= {
                "removed_filters": self._num_removed,
                "parameters_left": count_parameters(self.small),
                "flops_left": count_flops(self.small, shape),
            }
        return cost

    def model_card(self) -> ModelCard:
        """Return the values that rebuild the network and prepare its input."""
        splits = self._splits
        card = ModelCard(
            model=self._settings.model.name,
            num_classes=len(splits.class_names),
            class_names=splits.class_names,
            image_shape=splits.image_shape,
            mean=splits.recipe.mean,
            std=splits.recipe.std,
        )
        return card if self.small is None else card.model_copy(update={"removed_filters": self._num_removed})


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the share of predicted classes (N,) that equal the labels (N,)."""
    return int(torch.count_nonzero(predicted == labels)) / len(labels)
