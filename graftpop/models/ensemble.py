"""Several networks as one module."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Ensemble"]


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
