"""Checks of an exported file against its network: equal scores and equal accuracy."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from graftpop.data import Images
from graftpop.errors import ModelError
from graftpop.exporting.formats import Predict

__all__ = ["Measurement", "check_agreement", "measure", "measure_on_noise"]

TOLERANCE: Final = 1e-4
BATCH: Final = 64  # the last batch of most splits is smaller, so two batch sizes are checked
NUM_NOISE_IMAGES: Final = 100


@dataclass(frozen=True)
class Measurement:
    """Accuracy of an exported file and its agreement with its network.

    Attributes:
        images: name of the images: `val`, `test` or `noise`.
        num_images: number of images.
        accuracy: accuracy of the file, in [0, 1]; nan on noise.
        network_accuracy: accuracy of the network, in [0, 1]; nan on noise.
        difference: largest difference between their scores, relative to the image's largest score if that is above 1.
    """

    images: str
    num_images: int
    accuracy: float
    network_accuracy: float
    difference: float


@torch.no_grad()
def measure(name: str, images: Images, network: Predict, file: Predict) -> Measurement:
    """Return the accuracies of a file and its network on a split, and their difference.

    Args:
        name: name of the split.
        images: images of the split.
        network: network in evaluation mode.
        file: network decoded from the file.
    """
    num_right = num_right_of_network = 0
    differences = []
    for pixels, labels in images.evaluation_batches(BATCH, torch.device("cpu")):
        expected, found = network(pixels), file(pixels)
        differences.append(_difference(expected, found))
        num_right += int(torch.count_nonzero(found.argmax(1) == labels))
        num_right_of_network += int(torch.count_nonzero(expected.argmax(1) == labels))
    num_images = images.num_images
    return Measurement(
        name,
        num_images,
        num_right / num_images,
        num_right_of_network / num_images,
        float(torch.tensor(differences).max()),  # unlike max(), nan if one of them is
    )


@torch.no_grad()
def measure_on_noise(image_shape: tuple[int, int, int], network: Predict, file: Predict) -> Measurement:
    """Return the difference between a file and its network on noise images, for runs whose data is missing."""
    images = torch.randn(NUM_NOISE_IMAGES, *image_shape, generator=torch.Generator().manual_seed(0))
    return Measurement("noise", NUM_NOISE_IMAGES, math.nan, math.nan, _difference(network(images), file(images)))


def check_agreement(measurement: Measurement) -> None:
    """Check that a file gives the scores and the accuracy of its network.

    Raises:
        ModelError: scores or accuracies differ by more than `TOLERANCE`.
    """
    images = f"{measurement.num_images:,} images ({measurement.images})"
    if not measurement.difference <= TOLERANCE:  # true for nan
        raise ModelError(
            f"export: the file's scores must agree with the network's within {TOLERANCE:g}, got a difference of "
            f"{measurement.difference:.2g} on {images}; choose another format"
        )
    if abs(measurement.accuracy - measurement.network_accuracy) > TOLERANCE:
        raise ModelError(
            f"export: the file must have the network's accuracy, {100 * measurement.network_accuracy:.2f} %, got "
            f"{100 * measurement.accuracy:.2f} % on {images}; choose another format"
        )


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return math.inf
    scale = expected.abs().amax(1).clamp(min=1.0)
    return float(((found - expected).abs().amax(1) / scale).max())
