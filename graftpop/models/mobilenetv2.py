"""MobileNetV2 for small images.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381, in the CIFAR form
of the released filter-grafting code: stride 1 in the stem and the second stage, ReLU instead of ReLU6, a projection
shortcut where the width changes at stride 1. State keys are those of that code.
"""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.models.layers import pixel_mean

__all__ = ["MobileNetV2"]

# expansion, output channels, blocks, stride of the first block (Table 2 of the paper, with the CIFAR strides)
STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3 convolution, and linear 1x1 projection, with a shortcut at stride 1."""

    def __init__(self, num_inputs: int, num_filters: int, expansion: int, stride: int) -> None:
        super().__init__()
        num_hidden = expansion * num_inputs
        self.conv1 = nn.Conv2d(num_inputs, num_hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_hidden)
        self.conv2 = nn.Conv2d(num_hidden, num_hidden, 3, stride=stride, padding=1, groups=num_hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(num_hidden)
        self.conv3 = nn.Conv2d(num_hidden, num_filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(num_filters)
        self.is_residual = stride == 1
        self.shortcut = nn.Sequential()
        if self.is_residual and num_inputs != num_filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_filters, 1, bias=False), nn.BatchNorm2d(num_filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (N, num_filters, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        projected: Tensor = self.bn3(self.conv3(out))
        return projected + self.shortcut(x) if self.is_residual else projected


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1.

    Initialization is torch's default, as in the released filter-grafting code, whose counts of invalid filters depend
    on it; the paper states none.

    Args:
        num_classes: logits per image.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks = []
        num_inputs = 32
        for expansion, num_filters, num_blocks, first_stride in STAGES:
            for stride in [first_stride] + [1] * (num_blocks - 1):
                blocks.append(InvertedResidual(num_inputs, num_filters, expansion, stride))
                num_inputs = num_filters
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(num_inputs, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), of images, (N, 3, H, W)."""
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        out = F.relu(self.bn2(self.conv2(self.layers(out))), inplace=True)
        logits: Tensor = self.linear(pixel_mean(out))
        return logits
