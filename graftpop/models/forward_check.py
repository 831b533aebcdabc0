"""Forward passes of a copy of a network on blank images, to check its input and output.

They run on the network's device. The meta device, which computes nothing, would cost more than two small images: torch
imports its compiler to use it.
"""

import copy

import torch
from torch import nn

from graftpop.data.input_shape import InputShape
from graftpop.errors import ModelError, describe_exception
from graftpop.models.module_check import check_modules

__all__ = ["blank_images", "check_forward", "run_forward", "eval_copy"]


def eval_copy(network: nn.Module, where: str = "network") -> nn.Module:
    """Return a deep copy of a network in evaluation mode.

    Args:
        network: any network.
        where: name of the network for messages, see `run_forward`.

    Raises:
        ModelError: the network cannot be copied.
    """
    try:
        return copy.deepcopy(network).eval()
    except Exception as error:  # a user-defined network may raise anything
        raise ModelError(
            f"{where} must be a network that copy.deepcopy copies, got {describe_exception(error)}; fix it"
        ) from error


def blank_images(network: nn.Module, num_images: int, image_shape: tuple[int, ...]) -> torch.Tensor:
    """Return black images (num_images, C, H, W), or other inputs of zeros, on the device of a network's weights."""
    weights = next(network.parameters(), torch.empty(0))
    dtype = image_shape.dtype if isinstance(image_shape, InputShape) else torch.float32
    return torch.zeros(num_images, *image_shape, dtype=dtype, device=weights.device)


def run_forward(network_copy: nn.Module, image_shape: tuple[int, ...], where: str) -> object:
    """Return the output of a network for two blank images or other inputs, see `blank_images`.

    Args:
        network_copy: copy of the network, see `eval_copy`.
        image_shape: (C, H, W).
        where: name of the network for messages, such as `model.name: 'resnet20'`.

    Raises:
        ModelError: the forward pass fails on such images.
    """
    try:
        with torch.no_grad():
            output: object = network_copy(blank_images(network_copy, 2, image_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{where} cannot take {_kind(image_shape)}: {reason}; choose a network made for this size, or larger images"
        ) from error
    except Exception as error:  # a user-defined network may raise anything
        raise ModelError(f"{where} must take {_kind(image_shape)}, got {describe_exception(error)}; fix it") from error
    return output


def _kind(shape: tuple[int, ...]) -> str:
    dtype = getattr(shape, "dtype", torch.float32)
    return f"images of shape {tuple(shape)}" if dtype == torch.float32 else f"inputs of shape {tuple(shape)}, {dtype}"


def check_forward(network: nn.Module, image_shape: tuple[int, ...], num_classes: int, where: str) -> None:
    """Check that a network has supported modules, and maps images of a shape to one logit per class.

    Args:
        network: network to check; not changed.
        image_shape: (C, H, W).
        num_classes: number of classes of the data.
        where: name of the network for messages, see `run_forward`.

    Raises:
        ModelError: a module is not supported, the forward pass fails, or its output has another shape than
            (images, num_classes).
    """
    check_modules(network, where)
    output = run_forward(eval_copy(network, where), image_shape, where)
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (2, num_classes):
        raise ModelError(
            f"{where} must give logits of shape (images, {num_classes}), one per class, got {shape} for 2 images; "
            f"fix its forward, or the classes"
        )
