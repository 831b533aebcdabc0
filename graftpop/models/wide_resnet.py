"""Wide residual networks for small images.

Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146: pre-activation blocks of two 3x3
convolutions, without dropout. A shortcut that changes the width has a 1x1 convolution on the normalized input, as in
the authors' code.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.models.layers import pixel_mean
from graftpop.models.resnet import he_convolutions_

__all__ = ["WideResNet"]


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice, with a shortcut."""

    def __init__(self, num_inputs: int, num_filters: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = nn.Conv2d(num_inputs, num_filters, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_filters)
        self.conv2 = nn.Conv2d(num_filters, num_filters, 3, padding=1, bias=False)
        self.shortcut = None
        if num_inputs != num_filters:
            self.shortcut = nn.Conv2d(num_inputs, num_filters, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (N, num_filters, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        change: Tensor = self.conv2(out)
        return change + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """WRN-(6n+4)-k; the depth counts all convolutions, including those of the three shortcuts.

    He initialization (fan out), bias of the classifier zero, as in the authors' Torch code.

    Args:
        num_blocks: n, blocks in each of the three stages.
        widening: k; the stages have 16k, 32k and 64k channels.
        num_classes: logits per image.
    """

    def __init__(self, num_blocks: int, widening: int, num_classes: int) -> None:
        super().__init__()
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.layer1 = stage(num_blocks, widths[0], widths[1], stride=1)
        self.layer2 = stage(num_blocks, widths[1], widths[2], stride=2)
        self.layer3 = stage(num_blocks, widths[2], widths[3], stride=2)
        self.bn = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], num_classes)
        he_convolutions_(self, mode="fan_out")
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), of images, (N, 3, H, W)."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        logits: Tensor = self.linear(pixel_mean(F.relu(self.bn(out), inplace=True)))
        return logits


def stage(num_blocks: int, num_inputs: int, num_filters: int, stride: int) -> nn.Sequential:
    """Return `num_blocks` blocks of one width; the first has the stride."""
    rest = [PreactivationBlock(num_filters, num_filters, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(PreactivationBlock(num_inputs, num_filters, stride), *rest)
