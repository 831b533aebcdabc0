"""Augmentation and normalization of image batches, as pure functions.

The random numbers are arguments, drawn on the CPU, so that every device sees the same batches. Pixels stay uint8 until
the last step. Batches have shape (B, 3, H, W) with channels last in memory: decoders produce this order, convolutions
prefer it, and a row of pixels is one run of bytes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graftpop.settings import NO_AUGMENTATION, AugmentationSettings

__all__ = ["crop_and_flip", "normalize", "random_crop_box", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How pixels become network input: normalization and random variation."""

    mean: tuple[float, float, float]  # RGB, for pixels in [0, 1]
    std: tuple[float, float, float]
    crop_padding: int  # training: pixels of black padding before a random crop; 0 turns it off
    flip: bool  # training: mirror left-right with probability 1/2
    augmentation: AugmentationSettings = NO_AUGMENTATION  # training: only its policy and color jitter


def crop_and_flip(pixels: Tensor, dy: Tensor, dx: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Return images padded with black, cropped back to their size at given offsets, and mirrored where asked.

    Args:
        pixels: uint8 (B, 3, H, W).
        dy: int64 (B,), first row of the crop in the padded image, in [0, 2 * padding].
        dx: int64 (B,), first column of the crop, in [0, 2 * padding].
        mirrored: bool (B,), which images to mirror left-right, after the crop.
        padding: black pixels added on every side, >= 0.

    Returns:
        uint8 (B, 3, H, W), channels last in memory.
    """
    batch, _, height, width = pixels.shape
    padded = functional.pad(pixels.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    # Mirroring first lets one gather do both: where() on the crops would take as long again. The windows are a
    # view (2, B, 2p+1, 2p+1, 3, H, W) of all possible crops.
    windows = torch.stack((padded, padded.flip(2))).unfold(2, height, 1).unfold(3, width, 1)
    left = torch.where(mirrored, 2 * padding - dx, dx)
    return windows[mirrored.long(), torch.arange(batch, device=pixels.device), dy, left]


def normalize(pixels: Tensor, recipe: Recipe) -> Tensor:
    """Return `(pixels / 255 - mean) / std`.

    Args:
        pixels: uint8 (B, 3, H, W).
        recipe: recipe of the data; only `mean` and `std` are used.

    Returns:
        float32 (B, 3, H, W), channels last in memory.
    """
    batch, channels, height, width = pixels.shape
    scale, shift = _row_factors(recipe, width, pixels.device)
    rows = pixels.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    return rows.float().mul_(scale).add_(shift).view(batch, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _row_factors(recipe: Recipe, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # One factor per value of a row (width * 3): an inner loop over three channels would not vectorize.
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (recipe.mean, recipe.std))
    scale, shift = 1 / (255 * std), -mean / std
    return scale.float().repeat(width).to(device), shift.float().repeat(width).to(device)


def random_crop_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Return a random box (top, left, height, width) inside an image, as in ImageNet training.

    The area is uniform in [8 %, 100 %] of the image, the aspect ratio (width / height) log-uniform in [3/4, 4/3]. If
    ten draws do not fit, it is the largest centered box with such a ratio.

    Args:
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        generator: source of the random numbers.

    References:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6; torchvision's `RandomResizedCrop`.
    """
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
