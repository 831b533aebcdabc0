"""Running a network for its shapes alone: on the meta device, where nothing is computed."""

import copy

import torch
from torch import nn

from graftpop.errors import ModelError

__all__ = ["check_takes", "meta_twin", "run_twin"]


def meta_twin(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device, in evaluation mode."""
    return copy.deepcopy(network).to("meta").eval()


def run_twin(twin: nn.Module, image_shape: tuple[int, int, int], what: str) -> None:
    """Run a network's twin on two images.

    Args:
        twin: on the meta device.
        image_shape: (C, H, W).
        what: which network it is, for messages, such as `model.name: 'resnet20'`.

    Raises:
        ModelError: the network cannot take such images.
    """
    try:
        with torch.no_grad():
            twin(torch.empty(2, *image_shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{what} cannot take images of shape {image_shape}: {reason}; choose a network made for this "
                         f"size, or larger images") from error


def check_takes(network: nn.Module, image_shape: tuple[int, int, int], what: str) -> None:
    """Check that a network takes images of a shape; see `run_twin`. The network is not changed."""
    run_twin(meta_twin(network), image_shape, what)
