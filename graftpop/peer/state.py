"""A peer's complete state in the safetensors format, with the model card in its header.

The learner owns `network/`, `momentum/` and `epoch`. Each hook's tensors start with its name. `small/` is the network
without its removed filters, if any were removed.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.hooks.hook import Hook
from graftpop.models.card import ModelCard
from graftpop.models.module_check import without_ties
from graftpop.training.learner import Learner

__all__ = ["load_state", "state_bytes"]


def state_bytes(
    learner: Learner, hooks: Sequence[Hook], teacher_images: int, small: nn.Module | None, card: ModelCard
) -> bytes:
    """Return the state of a peer.

    Args:
        learner: owner of network, momentum and epoch.
        hooks: the peer's hooks.
        teacher_images: images that the peer trained teachers on and has not reported yet.
        small: the network without removed filters; None if none were removed.
        card: the model card.
    """
    tensors = learner.state_dict()
    for hook in hooks:
        tensors |= {f"{hook.name}/{key}": tensor.contiguous() for key, tensor in hook.state_dict().items()}
    tensors["teacher_images"] = torch.tensor(teacher_images)
    if small is not None:
        tensors |= without_ties({f"small/{name}": tensor for name, tensor in small.state_dict().items()})
    return tensors_to_bytes(tensors, {"model_card": json.dumps(card.to_dict())})


def load_state(state: bytes, learner: Learner, hooks: Sequence[Hook], where: str, num_epochs: int) -> int:
    """Load a state from `state_bytes` into a learner and its hooks; return its `teacher_images`.

    Args:
        state: bytes of any length; nothing in them is executed.
        learner: receives network, momentum and epoch.
        hooks: receive their tensors.
        where: owner of the state, for messages: `checkpoint of peer 2`.
        num_epochs: the peer's epochs; a higher epoch in the state is an error.

    Raises:
        CheckpointError: the bytes are truncated or belong to another network.
    """
    try:
        tensors = tensors_from_bytes(state)
    except SafetensorError as error:
        raise CheckpointError(
            f"{where}: must be a complete safetensors file: {error}; use an older checkpoint"
        ) from error
    learner.load_state_dict(tensors)
    teacher_images = _checked(tensors, learner, where, num_epochs)
    for hook in hooks:
        prefix = f"{hook.name}/"
        hook.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
    return teacher_images


def _checked(tensors: Mapping[str, Tensor], learner: Learner, where: str, num_epochs: int) -> int:
    """Check the values of a loaded state; return its `teacher_images`."""
    if not 0 <= learner.epoch <= num_epochs:
        raise CheckpointError(f"{where}: epoch must be in [0, {num_epochs}], got {learner.epoch}")
    if not learner.state.buffer.isfinite().all():
        raise CheckpointError(f"{where}: weights must be finite, got others")
    images = tensors.get("teacher_images")
    if images is None or images.numel() != 1 or images.dtype != torch.int64:
        raise CheckpointError(f"{where}: teacher_images must be one integer")
    return int(images)
