"""A peer's network after training: filters removed, soup, cost, and the model card."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from graftpop.data import Splits
from graftpop.data.input_shape import InputShape
from graftpop.models.card import ModelCard
from graftpop.models.features import classifier_of
from graftpop.models.flops import count_flops, count_parameters
from graftpop.models.forward_check import blank_images
from graftpop.models.latency import measure_latencies
from graftpop.ops.soups import greedy_soup, uniform_soup
from graftpop.rows import TrialRow
from graftpop.settings import Settings
from graftpop.sites import Site
from graftpop.tasks.find import num_outputs
from graftpop.tasks.task import Task
from graftpop.training.learner import Learner
from graftpop.training.removal import remove_dropped
from graftpop.training.snapshot import Snapshot

__all__ = ["FinalNetwork"]


class FinalNetwork:
    """A trained peer's network, its changes after training, and its description.

    Args:
        learner: the peer's learner, with the network.
        sites: sites of the network.
        splits: the peer's data.
        task: the peer's task.
        settings: the population's settings.

    Attributes:
        small: the network without its dropped filters; None until some were removed.
    """

    def __init__(self, learner: Learner, sites: list[Site], splits: Splits, task: Task, settings: Settings) -> None:
        self.small: nn.Module | None = None
        self._learner, self._sites, self._splits, self._task = learner, sites, splits, task
        self._settings = settings
        self._num_removed = 0

    def remove_dropped(self) -> None:
        """Cut dropped filters out of a copy of the network, if the settings say so."""
        if self._settings.pruning is not None and self._settings.pruning.remove:
            self.small, self._num_removed = remove_dropped(
                self._learner.network, self._sites, self._splits.image_shape, self._settings.model.name
            )

    def make_soup(self, kind: str, snapshots: Sequence[Snapshot]) -> None:
        """Replace the weights by a mean of snapshots, with new BatchNorm statistics.

        Args:
            kind: `uniform_soup` averages all, `greedy_soup` those that do not worsen the validation score.
            snapshots: the peers' snapshots, the best first.
        """
        weights = [torch.tensor(snapshot.weights) for snapshot in snapshots]
        soup = uniform_soup(weights) if kind == "uniform_soup" else greedy_soup(weights, self._merit_of)
        self._set_weights(soup)

    def _set_weights(self, weights: Tensor) -> None:
        self._learner.state.buffer.copy_(weights)
        self._learner.recalibrate()

    def _merit_of(self, weights: Tensor) -> float:
        self._set_weights(weights)
        outputs, targets = self._learner.evaluate(self._splits.val, exact=False)
        primary = self._settings.primary
        return primary.merit(self._task.score(self._task.predict(outputs), targets)[primary.name])

    def cost(self) -> TrialRow:
        """Return the network's parameters and its FLOPs per image.

        If filters were removed, also both without these filters, and the latencies with and without them.
        """
        shape = self._splits.image_shape
        network = self._learner.network
        cost: TrialRow = {"parameters": count_parameters(network), "flops": count_flops(network, shape)}
        if self.small is not None:
            cost |= {
                "removed_filters": self._num_removed,
                "parameters_left": count_parameters(self.small),
                "flops_left": count_flops(self.small, shape),
            }
            one, one_left = measure_latencies([network, self.small], shape, 1)
            batch, batch_left = measure_latencies([network, self.small], shape, 128)
            cost |= {
                "latency_1_ms": 1000 * one,
                "latency_1_left_ms": 1000 * one_left,
                "latency_128_ms": 1000 * batch,
                "latency_128_left_ms": 1000 * batch_left,
            }
        return cost

    @cached_property
    def _classifier(self) -> str:
        network = self._learner.network
        return classifier_of(network, blank_images(network, 2, self._splits.image_shape))[0]

    def model_card(self) -> ModelCard:
        """Return the values that rebuild the network and prepare its input."""
        splits = self._splits
        card = ModelCard(
            model=self._settings.model.name,
            num_classes=num_outputs(self._task, splits),
            class_names=splits.class_names,
            image_shape=tuple(splits.image_shape),
            mean=splits.recipe.mean,
            std=splits.recipe.std,
        )
        changes: dict[str, object] = {"args": self._settings.model.args} if self._settings.model.args else {}
        if self.small is not None:
            changes["removed_filters"] = self._num_removed
        task = self._settings.task
        if task.name != "classification":
            changes["task"] = task.name
        if task.name == "recognition":
            changes |= {"classifier": self._classifier, "distance": task.distance}
        if isinstance(splits.image_shape, InputShape) and splits.image_shape.dtype != torch.float32:
            changes["input_dtype"] = str(splits.image_shape.dtype).removeprefix("torch.")
        return card.model_copy(update=changes)
