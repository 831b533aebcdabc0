"""Running a copy of a network on blank images, to learn what it takes and how it is put together.

On the device that the network is on. The meta device, where nothing would be computed, costs more than two small images
do: to use it torch imports its compiler, into every process.
"""

import copy

import torch
from torch import nn

from graftpop.errors import ModelError

__all__ = ["blank_images", "check_takes", "run_twin", "twin_of"]


def twin_of(network: nn.Module) -> nn.Module:
    """Return a copy of a network, in evaluation mode."""
    return copy.deepcopy(network).eval()


def blank_images(network: nn.Module, num_images: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """Return black images (num_images, C, H, W) where a network's weights are."""
    weights = next(network.parameters(), torch.empty(0))
    return torch.zeros(num_images, *image_shape, device=weights.device)


def run_twin(twin: nn.Module, image_shape: tuple[int, int, int], what: str) -> None:
    """Run a network's twin on two images.

    Args:
        twin: of the network.
        image_shape: (C, H, W).
        what: which network it is, for messages, such as `model.name: 'resnet20'`.

    Raises:
        ModelError: the network cannot take such images.
    """
    try:
        with torch.no_grad():
            twin(blank_images(twin, 2, image_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{what} cannot take images of shape {image_shape}: {reason}; choose a network made for this "
                         f"size, or larger images") from error


def check_takes(network: nn.Module, image_shape: tuple[int, int, int], what: str) -> None:
    """Check that a network takes images of a shape; see `run_twin`. The network is not changed."""
    run_twin(twin_of(network), image_shape, what)
