"""Several networks as one."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """Networks whose class probabilities are averaged.

    Its output is the natural logarithm of that mean, so that a softmax over it gives the mean itself.

    Args:
        members: networks from the same images to logits of the same classes.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return the log of the mean of the members' probabilities (B, num_classes), of images (B, 3, H, W)."""
        each = torch.stack([member(images).log_softmax(1) for member in self.members])
        mean: Tensor = each.logsumexp(0) - math.log(len(self.members))
        return mean
