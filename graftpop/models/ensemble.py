"""Several networks as one module."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Ensemble", "FeatureEnsemble"]


class Ensemble(nn.Module):
    """Average of the class probabilities of several networks.

    The output is the natural logarithm of the mean, so its softmax is the mean.

    Args:
        members: networks with the same input and the same classes.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return the log of the members' mean probabilities (B, num_classes) for images (B, 3, H, W)."""
        each = torch.stack([member(images).log_softmax(1) for member in self.members])
        mean: Tensor = each.logsumexp(0) - math.log(len(self.members))
        return mean


class FeatureEnsemble(nn.Module):
    """Features of several networks side by side, as the task recognition combines them.

    Args:
        members: networks with the same input.
        is_cosine: whether each member's features are scaled to length 1, for the cosine distance.
    """

    def __init__(self, members: Iterable[nn.Module], *, is_cosine: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._is_cosine = is_cosine

    def forward(self, images: Tensor) -> Tensor:
        """Return the members' features (B, sum of F) for images (B, 3, H, W)."""
        each = [member(images) for member in self.members]
        return torch.cat([F.normalize(features, dim=1) for features in each] if self._is_cosine else each, dim=1)
