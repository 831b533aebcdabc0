"""ResNeXt for small images.

Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017, arXiv:1611.05431, section 5.3:
three stages of bottleneck blocks with grouped convolutions (figure 3c). A shortcut that changes the width has a 1x1
convolution with BatchNorm.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.models.layers import pixel_mean
from graftpop.models.resnet import he_convolutions_

__all__ = ["ResNeXt"]


class AggregatedBlock(nn.Module):
    """1x1 reduction, grouped 3x3 convolution, and 1x1 expansion, with a shortcut."""

    def __init__(self, num_inputs: int, num_hidden: int, num_filters: int, num_groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_hidden)
        self.conv2 = nn.Conv2d(num_hidden, num_hidden, 3, stride=stride, padding=1, groups=num_groups, bias=False)
        self.bn2 = nn.BatchNorm2d(num_hidden)
        self.conv3 = nn.Conv2d(num_hidden, num_filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(num_filters)
        self.shortcut = nn.Sequential()
        if num_inputs != num_filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_filters, 1, stride=stride, bias=False), nn.BatchNorm2d(num_filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (N, num_filters, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x), inplace=True)


class ResNeXt(nn.Module):
    """ResNeXt of 9n+2 layers; stages of 256, 512 and 1024 channels.

    He initialization (fan out), bias of the classifier zero, as in the authors' Torch code.

    Args:
        num_blocks: n, blocks in each of the three stages.
        cardinality: groups per grouped convolution.
        group_width: channels per group in the first stage; doubles with every stage.
        num_classes: logits per image.
    """

    def __init__(self, num_blocks: int, cardinality: int, group_width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks = []
        num_inputs = 64
        for stage in range(3):
            num_filters = 256 * 2**stage
            num_hidden = cardinality * group_width * 2**stage
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(AggregatedBlock(num_inputs, num_hidden, num_filters, cardinality, stride))
                num_inputs = num_filters
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(num_inputs, num_classes)
        he_convolutions_(self, mode="fan_out")
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), of images, (N, 3, H, W)."""
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        logits: Tensor = self.linear(pixel_mean(self.layers(out)))
        return logits
