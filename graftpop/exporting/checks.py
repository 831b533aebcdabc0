"""Whether a file gives what the network gives, and how good it is: both seen on real images."""

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
BATCH: Final = 64  # the last batch of most splits is smaller: both sizes are seen
NUM_NOISE_IMAGES: Final = 100


@dataclass(frozen=True)
class Measured:
    """A file beside the network that it was made of.

    Attributes:
        images: on which images.
        num_images: on how many.
        accuracy: of the file, in [0, 1]; nan where the classes of the images are not known.
        network_accuracy: of the network.
        difference: the largest between their scores, as a share of the image's largest score where that is above 1.
    """

    images: str
    num_images: int
    accuracy: float
    network_accuracy: float
    difference: float


@torch.no_grad()
def measure(name: str, images: Images, network: Predict, file: Predict) -> Measured:
    """Return how a file and its network do on a split.

    Args:
        name: of the split.
        images: of it.
        network: in evaluation mode.
        file: as it was read back.
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
    )  # which is nan if one of them is


@torch.no_grad()
def measure_on_noise(image_shape: tuple[int, int, int], network: Predict, file: Predict) -> Measured:
    """Return how far a file is from its network on images of noise, where there are no others."""
    images = torch.randn(NUM_NOISE_IMAGES, *image_shape, generator=torch.Generator().manual_seed(0))
    return Measured("noise", NUM_NOISE_IMAGES, math.nan, math.nan, _difference(network(images), file(images)))


def check_alike(measured: Measured) -> None:
    """Check that a file gives what its network gives.

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
