"""Kinds of layers that the package distinguishes."""

from torch import nn

__all__ = ["BATCHNORMS", "CONVOLUTIONS", "NORMALIZATIONS", "TRANSPOSED", "is_depthwise"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMALIZATIONS = (
    *BATCHNORMS,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def is_depthwise(conv: nn.Module) -> bool:
    """Return whether a convolution has one filter per input channel, each reading that channel alone."""
    return conv.groups == conv.in_channels == conv.out_channels
