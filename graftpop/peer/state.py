"""The whole state of a peer in the safetensors format, with the model card in its header.

`network/`, momentum and `epoch` are the learner's; each hook's tensors begin with its name; `small/` is the network
without the filters that were removed, where some were.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.hooks.hook import Hook
from graftpop.training.learner import Learner

__all__ = ["load_state", "state_bytes"]


def state_bytes(
    learner: Learner, hooks: Sequence[Hook], teacher_images: int, small: nn.Module | None, card: Mapping[str, Any]
) -> bytes:
    """Return the state of a peer.

    Args:
        learner: its network, momentum and epoch.
        hooks: what changes its weights between epochs.
        teacher_images: images that it has trained teachers on, and not reported yet.
        small: its network without the filters that were removed; None: none were.
        card: of the network.
    """
    tensors = learner.state_dict()
    for hook in hooks:
        tensors |= {f"{hook.name}/{key}": tensor.contiguous() for key, tensor in hook.state_dict().items()}
    tensors["teacher_images"] = torch.tensor(teacher_images)
    if small is not None:
        tensors |= {f"small/{name}": tensor.contiguous() for name, tensor in small.state_dict().items()}
    return tensors_to_bytes(tensors, {"model_card": json.dumps(card)})


def load_state(state: bytes, learner: Learner, hooks: Sequence[Hook], where: str, num_epochs: int) -> int:
    """Let a learner and its hooks go on from what `state_bytes` returned; return its `teacher_images`.

    Args:
        state: of any length; nothing in it is executed.
        learner: takes network, momentum and epoch.
        hooks: take their own.
        where: whose state it is, for messages: `checkpoint of peer 2`.
        num_epochs: that the peer trains, which its epoch cannot be beyond.

    Raises:
        CheckpointError: the bytes are cut short or another network's.
    """
    try:
        tensors = tensors_from_bytes(state)
    except SafetensorError as error:
        raise CheckpointError(f"{where}: cut short, or no safetensors file: {error}") from error
    learner.load_state_dict(tensors)
    teacher_images = _checked(tensors, learner, where, num_epochs)
    for hook in hooks:
        prefix = f"{hook.name}/"
        hook.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
    return teacher_images


def _checked(tensors: Mapping[str, Tensor], learner: Learner, where: str, num_epochs: int) -> int:
    """Check of a state that was loaded what its shapes do not tell; return its `teacher_images`."""
    if not 0 <= learner.epoch <= num_epochs:
        raise CheckpointError(f"{where}: its epoch must be in [0, {num_epochs}], got {learner.epoch}")
    if not learner.state.buffer.isfinite().all():
        raise CheckpointError(f"{where}: its weights must be finite, got some that are not")
    images = tensors.get("teacher_images")
    if images is None or images.numel() != 1 or images.dtype != torch.int64:
        raise CheckpointError(f"{where}: must have teacher_images, one whole number")
    return int(images)
