"""Residual networks for small images, and the He initialization that other networks share.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2: 6n+2 layers,
widths 16, 32, 64, shortcuts without parameters (option A). State keys are those of the released filter-grafting code.
"""

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.models.layers import pixel_mean

__all__ = ["ResNet", "he_convolutions_"]


def he_convolutions_(network: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw every convolution weight from N(0, 2 / fan), from torch's global generator.

    Args:
        network: changed in place.
        mode: fan_in preserves the variance of activations, fan_out that of gradients.

    References:
        He et al., Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852, section 2.2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; a block wider than its input halves height and width."""

    def __init__(self, num_inputs: int, num_filters: int, activation: type[nn.Module]) -> None:
        super().__init__()
        widens = num_inputs != num_filters
        self.conv1 = nn.Conv2d(num_inputs, num_filters, 3, stride=2 if widens else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_filters)
        self.conv2 = nn.Conv2d(num_filters, num_filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_filters)
        self.activation = activation(inplace=True)
        self.num_zero_channels = num_filters // 4 if widens else 0

    def shortcut(self, x: Tensor) -> Tensor:
        """Return `x`; in a widening block every second pixel of it, with zero channels padded on both sides."""
        if not self.num_zero_channels:
            return x
        pixels = x.permute(0, 2, 3, 1)[:, ::2, ::2]  # channels last, for the layout of its gradient; see `pixel_mean`
        return F.pad(pixels, (self.num_zero_channels, self.num_zero_channels)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, (N, num_filters, H, W), with half the height and width in a widening block."""
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        activated: Tensor = self.activation(out + self.shortcut(x))
        return activated


class ResNet(nn.Module):
    """Residual network of 6n+2 layers.

    He initialization (fan in) of convolutions and classifier weight; the classifier's bias keeps torch's default.
    The paper states the rule; the fan and the bias follow the released filter-grafting code.

    Args:
        num_blocks: n, blocks in each of the three stages.
        activation: class of the activation; `nn.LeakyReLU` has torch's default negative slope, 0.01.
        num_classes: logits per image.
    """

    def __init__(self, num_blocks: int, activation: type[nn.Module], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.activation = activation(inplace=True)
        self.layer1 = stage(num_blocks, 16, 16, activation)
        self.layer2 = stage(num_blocks, 16, 32, activation)
        self.layer3 = stage(num_blocks, 32, 64, activation)
        self.linear = nn.Linear(64, num_classes)
        he_convolutions_(self, mode="fan_in")
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), of images, (N, 3, H, W)."""
        out = self.activation(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(pixel_mean(out))
        return logits


def stage(num_blocks: int, num_inputs: int, num_filters: int, activation: type[nn.Module]) -> nn.Sequential:
    """Return `num_blocks` blocks of one width; the first widens if `num_inputs` is smaller."""
    widths = [num_inputs] + [num_filters] * num_blocks
    return nn.Sequential(*(BasicBlock(i, o, activation) for i, o in pairwise(widths)))
