"""Comparison of an exported file with its network on images: scores and accuracy."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from graftpop.data import Images
from graftpop.errors import ModelError
from graftpop.exporting.formats import Predict

__all__ = ["Measured", "check_alike", "measure", "measure_on_noise"]

TOLERANCE: Final = 1e-4
BATCH: Final = 64  # the last batch of most splits is smaller, so two sizes are tried
NUM_NOISE_IMAGES: Final = 100


@dataclass(frozen=True)
class Measured:
    """Results of an exported file and its network on the same images.

    Attributes:
        images: name of the images: `val`, `test` or `noise`.
        num_images: number of images.
        accuracy: of the file, in [0, 1]; nan without known classes.
        network_accuracy: of the network.
        difference: largest difference of scores, relative to the image's largest score if that is above 1.
    """

    images: str
    num_images: int
    accuracy: float
    network_accuracy: float
    difference: float


@torch.no_grad()
def measure(name: str, images: Images, network: Predict, file: Predict) -> Measured:
    """Return the results of a file and its network on a split.

    Args:
        name: of the split.
        images: of the split.
        network: in evaluation mode.
        file: the file as read back.
    """
    num_right = num_right_of_network = 0
    differences = []
    for pixels, labels in images.evaluation_batches(BATCH, torch.device("cpu")):
        expected, found = network(pixels), file(pixels)
        differences.append(_difference(expected, found))
        num_right += int(torch.count_nonzero(found.argmax(1) == labels))
        num_right_of_network += int(torch.count_nonzero(expected.argmax(1) == labels))
    num_images = images.num_images
    return Measured(
        name,
        num_images,
        num_right / num_images,
        num_right_of_network / num_images,
        float(torch.tensor(differences).max()),
    )  # nan if any difference is nan


@torch.no_grad()
def measure_on_noise(image_shape: tuple[int, int, int], network: Predict, file: Predict) -> Measured:
    """Return the results of a file and its network on noise, for lack of images."""
    images = torch.randn(NUM_NOISE_IMAGES, *image_shape, generator=torch.Generator().manual_seed(0))
    return Measured("noise", NUM_NOISE_IMAGES, math.nan, math.nan, _difference(network(images), file(images)))


def check_alike(measured: Measured) -> None:
    """Check that a file agrees with its network.

    Raises:
        ModelError: scores or accuracies differ by more than the tolerance.
    """
    where = f"{measured.num_images:,} images ({measured.images})"
    if not measured.difference <= TOLERANCE:
        raise ModelError(
            f"the exported file must agree with the network within {TOLERANCE:g}, got a difference of "
            f"{measured.difference:.2g} on {where}; choose another format"
        )
    if abs(measured.accuracy - measured.network_accuracy) > TOLERANCE:
        raise ModelError(
            f"the exported file must have the network's accuracy, "
            f"{100 * measured.network_accuracy:.2f} %, got {100 * measured.accuracy:.2f} % on {where}; "
            f"choose another format"
        )


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return math.inf
    scale = expected.abs().amax(1).clamp(min=1.0)
    return float(((found - expected).abs().amax(1) / scale).max())
