"""Recognition: images of an identity found among others, for identities that training has not seen."""

import weakref
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.models.features import classifier_of
from graftpop.ops.retrieval import retrieval_scores
from graftpop.ops.triplet import batch_hard_triplet_loss
from graftpop.settings.task import METRICS, TaskSettings
from graftpop.tasks.task import Task

__all__ = ["Recognition"]


class Recognition(Task):
    """Recognition by a network that learns to classify the training identities.

    Training minimizes the cross entropy over the training identities plus `triplet_weight` times the batch-hard triplet
    loss of the features. Images of other identities are found by the distance of their features, the input of the
    network's last Linear layer. Predictions are features (N, F); those of an ensemble are its members' side by side, so
    that squared Euclidean distances add up, and cosines of equally long features average.

    Args:
        settings: the section of the task.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020 (the recipe without triplet loss); Hermans et
        al., arXiv:1703.07737 (triplet loss); Zheng et al., ICCV 2015 (evaluation).
    """

    metrics = METRICS["recognition"]

    def __init__(self, settings: TaskSettings) -> None:
        self._settings = settings
        self._classifiers: weakref.WeakKeyDictionary[nn.Module, nn.Linear] = weakref.WeakKeyDictionary()

    def forward(self, network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, C) of the training identities and the features (B, F) of a batch of images.

        Raises:
            ModelError: the network does not end in a Linear layer.
        """
        if network not in self._classifiers:
            self._classifiers[network] = classifier_of(network, inputs)[1]
        features: list[Tensor] = []
        hook = self._classifiers[network].register_forward_pre_hook(lambda _, given: features.append(given[0]))
        try:
            logits: Tensor = network(inputs)
        finally:
            hook.remove()
        return logits, features[0]

    def infer(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return the features (B, F)."""
        return self.forward(network, inputs)[1]

    def loss(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """Return the loss for identities (B,), numbered from 0."""
        settings, (logits, features) = self._settings, outputs
        loss = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        if settings.triplet_weight:
            loss = loss + settings.triplet_weight * batch_hard_triplet_loss(features, targets, settings.triplet_margin)
        return loss

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return mAP and CMC for targets (N, 3), see `retrieval_scores`."""
        return retrieval_scores(predictions, targets, distance=self._settings.distance)

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """Return the members' features side by side; for cosine distance each of length 1."""
        if self._settings.distance == "cosine":
            predictions = [F.normalize(features, dim=1) for features in predictions]
        return torch.cat(list(predictions), dim=1)

    def validation_loss(self, outputs: Tensor, targets: Tensor) -> None:
        """Return None: the network has no logits of identities that it did not train on."""

    def num_correct(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """Return how many images get the highest logit for their identity."""
        return torch.count_nonzero(outputs[0].argmax(1) == targets)

    def logits(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        """Return the logits of the training identities (B, C)."""
        return outputs[0]
