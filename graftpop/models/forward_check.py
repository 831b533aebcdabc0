"""Running a copy of a network on blank images, to learn what it takes and how it is put together.

On the device that the network is on. The meta device, where nothing would be computed, costs more than two small images
do: to use it torch imports its compiler, into every process.
"""

import copy

import torch
from torch import nn

from graftpop.errors import ModelError, describe_exception

__all__ = ["blank_images", "check_forward", "run_forward", "eval_copy"]


def eval_copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network, in evaluation mode."""
    return copy.deepcopy(network).eval()


def blank_images(network: nn.Module, num_images: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """Return black images (num_images, C, H, W) where a network's weights are."""
    weights = next(network.parameters(), torch.empty(0))
    return torch.zeros(num_images, *image_shape, device=weights.device)


def run_forward(twin: nn.Module, image_shape: tuple[int, int, int], what: str) -> object:
    """Run a network's twin on two images, and return what it gives.

    Args:
        twin: of the network.
        image_shape: (C, H, W).
        what: which network it is, for messages, such as `model.name: 'resnet20'`.

    Raises:
        ModelError: the network cannot take such images, or fails for another reason.
    """
    try:
        with torch.no_grad():
            given: object = twin(blank_images(twin, 2, image_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{what} cannot take images of shape {image_shape}: {reason}; choose a network made for this "
            f"size, or larger images"
        ) from error
    except Exception as error:  # one's own network may raise anything
        raise ModelError(
            f"{what} must take images of shape {image_shape}, got {describe_exception(error)}; mend it"
        ) from error
    return given


def check_forward(network: nn.Module, image_shape: tuple[int, int, int], num_classes: int, what: str) -> None:
    """Check that a network takes images of a shape and gives a logit a class; see `run_forward`. It is not changed."""
    given = run_forward(eval_copy(network), image_shape, what)
    shape = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    if shape != (2, num_classes):
        raise ModelError(
            f"{what} must give logits of shape (images, {num_classes}), one a class, got {shape} for 2 "
            f"images; mend its forward, or the classes"
        )
