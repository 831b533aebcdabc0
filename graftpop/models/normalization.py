"""Normalization of images, and a network after a conversion from one normalization to another."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Normalization", "Renormalized", "normalization"]

Color = tuple[float, float, float]


class Normalization(NamedTuple):
    """Normalization `(x - mean) / std` of RGB pixels in [0, 1]."""

    mean: Color
    std: Color


def normalization(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    """Return a normalization from its mean and its standard deviation, one value per color."""
    (red, green, blue), (red_std, green_std, blue_std) = mean, std
    return Normalization((red, green, blue), (red_std, green_std, blue_std))


class Renormalized(nn.Module):
    """A network after a conversion from the data's normalization to its own: `x * scale + shift`.

    Args:
        network: gets the converted images.
        data: normalization of the input.
        own: normalization that the network was trained with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, data: Normalization, own: Normalization) -> None:
        super().__init__()
        self.network = network
        data_mean, data_std, own_mean, own_std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (*data, *own)
        )
        self.register_buffer("scale", (data_std / own_std).float())
        self.register_buffer("shift", ((data_mean - own_mean) / own_std).float())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for images (B, 3, H, W) with the data's normalization."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits
