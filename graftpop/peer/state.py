"""A peer's complete state in the safetensors format, with the model card in its header.

The learner owns `network/`, `momentum/` and `epoch`. The tensors of each hook and of the exchange rule start with its
name. `small/` is the network without its removed filters, if any were removed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.models.card import ModelCard, read_card
from graftpop.models.module_check import without_ties
from graftpop.models.network_file import card_in_header
from graftpop.training.cuda import to_host
from graftpop.training.learner import Learner

__all__ = ["Stateful", "check_normalization", "load_state", "state_bytes"]


class Stateful(Protocol):
    """A hook or an exchange rule, whose tensors are part of the state."""

    name: str

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors."""

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors."""


def state_bytes(
    learner: Learner,
    parts: Sequence[Stateful],
    of_teachers: tuple[int, float],
    small: nn.Module | None,
    card: ModelCard,
) -> bytes:
    """Return the state of a peer.

    Args:
        learner: owner of network, momentum and epoch.
        parts: the peer's hooks and its exchange rule.
        of_teachers: images and seconds for which the peer trained teachers, not reported yet.
        small: the network without removed filters; None if none were removed.
        card: the model card.
    """
    tensors = learner.state_dict()
    for part in parts:
        tensors |= {f"{part.name}/{key}": tensor.contiguous() for key, tensor in part.state_dict().items()}
    images, seconds = of_teachers
    tensors |= {"teacher_images": torch.tensor(images), "teacher_s": torch.tensor(seconds, dtype=torch.float64)}
    if small is not None:
        tensors |= without_ties({f"small/{name}": tensor for name, tensor in small.state_dict().items()})
    on_host = dict(zip(tensors, to_host([*tensors.values()]), strict=True))
    return tensors_to_bytes(on_host, {"model_card": json.dumps(card.to_dict())})


def check_normalization(state: bytes, card: ModelCard, where: str) -> None:
    """Check that a state belongs to a peer whose images have the same normalization.

    Args:
        state: bytes from `state_bytes`, or damaged ones, which `load_state` refuses.
        card: the peer's own model card.
        where: owner of the state, for messages.

    Raises:
        CheckpointError: the peer's images are normalized otherwise.
    """
    try:
        saved = read_card(card_in_header(state))
    except (AttributeError, TypeError, ValueError):
        return
    if (saved.mean, saved.std) != (card.mean, card.std):
        raise CheckpointError(
            f"{where}: must have the normalization of this peer's images, mean {card.mean} and std {card.std}, got "
            f"{saved.mean} and {saved.std}; restore the weights of model.checkpoint"
        )


def load_state(
    state: bytes, learner: Learner, parts: Sequence[Stateful], where: str, num_epochs: int
) -> tuple[int, float]:
    """Load a state from `state_bytes` into a learner, hooks and exchange rule; return its `of_teachers`.

    Args:
        state: bytes of any length; nothing in them is executed.
        learner: receives network, momentum and epoch.
        parts: hooks and exchange rule, which receive their tensors.
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
    of_teachers = _checked(tensors, learner, where, num_epochs)
    for part in parts:
        prefix = f"{part.name}/"
        part.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
    return of_teachers


def _checked(tensors: Mapping[str, Tensor], learner: Learner, where: str, num_epochs: int) -> tuple[int, float]:
    """Check the values of a loaded state; return its `of_teachers`."""
    if not 0 <= learner.epoch <= num_epochs:
        raise CheckpointError(f"{where}: epoch must be in [0, {num_epochs}], got {learner.epoch}")
    if not learner.state.buffer.isfinite().all():
        raise CheckpointError(f"{where}: weights must be finite, got others")
    images, seconds = tensors.get("teacher_images"), tensors.get("teacher_s", torch.zeros(()))  # version 0.2 has none
    if images is None or images.numel() != 1 or images.dtype != torch.int64:
        raise CheckpointError(f"{where}: teacher_images must be one integer")
    if seconds.numel() != 1 or not seconds.isfinite().all():
        raise CheckpointError(f"{where}: teacher_s must be one finite number")
    return int(images), float(seconds)
