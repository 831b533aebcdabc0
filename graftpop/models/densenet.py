"""DenseNet-BC for small images.

Huang et al., Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993, in the CIFAR form: bottlenecks of
4 growth rates, transitions that halve the channels, no dropout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.models.layers import pixel_mean
from graftpop.models.resnet import he_convolutions_

__all__ = ["DenseNet"]


class DenseLayer(nn.Module):
    """Append `growth` channels to the input."""

    def __init__(self, num_inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = nn.Conv2d(num_inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the new channels, (N, num_inputs + growth, H, W)."""
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        return torch.cat((x, self.conv2(F.relu(self.bn2(out), inplace=True))), dim=1)


class Transition(nn.Module):
    """Halve channels, height and width."""

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_inputs)
        self.conv = nn.Conv2d(num_inputs, num_inputs // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, num_inputs // 2, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x), inplace=True)), 2)


class DenseNet(nn.Module):
    """DenseNet-BC of three dense blocks and 6n+4 layers; the stem has 2 growth rates of channels.

    He initialization (fan out), bias of the classifier zero, as in the authors' Torch code.

    Args:
        num_layers: n, pairs of convolutions in each dense block.
        growth: channels added by each pair.
        num_classes: logits per image.
    """

    def __init__(self, num_layers: int, growth: int, num_classes: int) -> None:
        super().__init__()
        num_channels = 2 * growth
        self.conv1 = nn.Conv2d(3, num_channels, 3, padding=1, bias=False)
        modules: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                modules.append(Transition(num_channels))
                num_channels //= 2
            for _ in range(num_layers):
                modules.append(DenseLayer(num_channels, growth))
                num_channels += growth
        self.layers = nn.Sequential(*modules)
        self.bn = nn.BatchNorm2d(num_channels)
        self.linear = nn.Linear(num_channels, num_classes)
        he_convolutions_(self, mode="fan_out")
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), of images, (N, 3, H, W)."""
        out = F.relu(self.bn(self.layers(self.conv1(images))), inplace=True)
        logits: Tensor = self.linear(pixel_mean(out))
        return logits
