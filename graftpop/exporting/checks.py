"""Checks of an exported file against its network: equal outputs and an equal score."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from graftpop.data import Images
from graftpop.data.input_shape import InputShape
from graftpop.errors import ModelError
from graftpop.exporting.formats import Predict
from graftpop.metrics import Metric
from graftpop.tasks.task import Task

__all__ = ["Measurement", "check_agreement", "measure", "measure_on_noise"]

TOLERANCE: Final = 1e-4
BATCH: Final = 64  # the last batch of most splits is smaller, so two batch sizes are checked
NUM_NOISE_IMAGES: Final = 100


@dataclass(frozen=True)
class Measurement:
    """Score of an exported file, the task's primary metric, and its agreement with its network.

    Attributes:
        images: name of the images: `val`, `test` or `noise`.
        num_images: number of images.
        score: score of the file; nan on noise.
        network_score: score of the network; nan on noise.
        difference: largest difference between their outputs, relative to the image's largest output if that is above 1.
    """

    images: str
    num_images: int
    score: float
    network_score: float
    difference: float


@torch.no_grad()
def measure(name: str, images: Images, task: Task, network: Predict, file: Predict) -> Measurement:
    """Return the scores of a file and its network on a split, and the difference of their outputs.

    Args:
        name: name of the split.
        images: images of the split.
        task: the task.
        network: network in evaluation mode.
        file: network decoded from the file.
    """
    outputs: list[Tensor] = []
    of_network: list[Tensor] = []
    targets: list[Tensor] = []
    for inputs, of_batch in images.evaluation_batches(BATCH, torch.device("cpu")):
        outputs.append(file(inputs))
        of_network.append(network(inputs))
        targets.append(of_batch)
    differences = [_difference(expected, found) for expected, found in zip(of_network, outputs, strict=True)]
    score, network_score = (
        task.score(task.predict(torch.cat(each)), torch.cat(targets))[task.metrics[0].name]
        for each in (outputs, of_network)
    )
    # unlike max(), the largest difference is nan if one of them is
    return Measurement(name, images.num_images, score, network_score, float(torch.tensor(differences).max()))


@torch.no_grad()
def measure_on_noise(input_shape: tuple[int, ...], network: Predict, file: Predict) -> Measurement:
    """Return the difference between a file and its network on noise, or on zeros where the input is whole numbers."""
    size = (NUM_NOISE_IMAGES, *input_shape)
    images = torch.randn(size, generator=torch.Generator().manual_seed(0))
    if isinstance(input_shape, InputShape) and input_shape.dtype != torch.float32:
        images = torch.zeros(size, dtype=input_shape.dtype)  # the only whole number that every embedding has
    return Measurement("noise", NUM_NOISE_IMAGES, math.nan, math.nan, _difference(network(images), file(images)))


def check_agreement(measurement: Measurement, primary: Metric) -> None:
    """Check that a file gives the outputs and the score of its network.

    Raises:
        ModelError: outputs or scores differ by more than `TOLERANCE`; shares may differ by one image.
    """
    images = f"{measurement.num_images:,} images ({measurement.images})"
    if not measurement.difference <= TOLERANCE:  # true for nan
        raise ModelError(
            f"export: the file's outputs must agree with the network's within {TOLERANCE:g}, got a difference of "
            f"{measurement.difference:.2g} on {images}; choose another format"
        )
    expected, found = measurement.network_score, measurement.score
    # a tie of two outputs decides one prediction; the half is for rounding
    allowed = 1.5 / measurement.num_images if primary.is_share else 0.0
    if abs(found - expected) > max(allowed, TOLERANCE * max(1.0, abs(expected))):
        raise ModelError(
            f"export: the file must have the network's {primary.label}, {primary.text(expected)}, got "
            f"{primary.text(found)} on {images}; choose another format"
        )


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return math.inf
    expected, found = expected.flatten(1), found.flatten(1)
    scale = expected.abs().amax(1).clamp(min=1.0)
    return float(((found - expected).abs().amax(1) / scale).max())
