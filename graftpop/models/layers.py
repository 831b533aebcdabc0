"""Kinds of layers that the package distinguishes, and a layer that its networks share."""

from torch import Tensor, nn

__all__ = ["BATCHNORMS", "CONVOLUTIONS", "INSTANCENORMS", "NORMALIZATIONS", "TRANSPOSED", "is_depthwise", "pixel_mean"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCENORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMALIZATIONS = (*BATCHNORMS, *INSTANCENORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def is_depthwise(conv: nn.Module) -> bool:
    """Return whether a convolution has one filter per input channel, each reading that channel alone."""
    return conv.groups == conv.in_channels == conv.out_channels


def pixel_mean(maps: Tensor) -> Tensor:
    """Return the means over all pixels, (N, C), of feature maps, (N, C, H, W).

    The mean is taken channels last, as networks train here. The gradient of `maps.mean((2, 3))` has its channels first
    and the same values, and torch is slow where ReLU and sums get tensors of two layouts.
    """
    return maps.permute(0, 2, 3, 1).mean((1, 2))
