"""Pretrained teachers: the best network of a run, a file of weights, or published weights.

Students get images normalized by their data set's recipe. A teacher trained with another normalization gets a first
layer that converts between the two. A plain file of weights is assumed to have the student's normalization.
"""

import os
import socket
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import TIMM, TORCHVISION, build, find_model
from graftpop.models.forward_check import check_forward
from graftpop.models.network_file import read_network
from graftpop.models.weight_file import read_weights
from graftpop.seeds import seeded
from graftpop.settings import TeacherSettings

__all__ = ["Normalization", "Renormalized", "load_teacher"]

SOCKET_LIMIT_S: Final = 20.0  # seconds without a byte while weights are downloaded


class Normalization(NamedTuple):
    """Normalization `(x - mean) / std` of RGB pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_teacher(
    settings: TeacherSettings,
    num_classes: int,
    image_shape: tuple[int, ...],
    where: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Module:
    """Return a trained teacher in evaluation mode, on the CPU, with frozen parameters.

    It maps the student's images to logits (B, num_classes), and is checked on blank images. Teachers with
    `epochs` are built by the caller and trained in the trial.

    Args:
        settings: settings of the teacher, with either `checkpoint` or `pretrained`.
        num_classes: number of classes of the data.
        image_shape: (C, H, W) of the data's images.
        where: key of the settings, for messages: `distillation.teachers[0]`.
        mean: mean of the data's recipe, one value per color, for pixels in [0, 1].
        std: standard deviation of the data's recipe, one value per color, for pixels in [0, 1].

    Raises:
        CheckpointError: the checkpoint is absent, damaged, or holds another network.
        ModelError: unknown network, no published weights, or they do not fit the data.
        ValueError: `epochs` is given, or not exactly one of `checkpoint` and `pretrained`.
    """
    if settings.epochs is not None or (settings.checkpoint is None) != settings.pretrained:
        raise ValueError(f"{where}: load_teacher needs one of checkpoint and pretrained, no epochs, got {settings!r}")
    data = Normalization(tuple(mean), tuple(std))
    with seeded(0, torch.device("cpu")):  # initial weights, soon replaced, must not advance the global generator
        if settings.checkpoint is None:
            network, own = _published(settings.model, num_classes, where)
        elif os.path.isdir(settings.checkpoint):
            network, own = _from_run(Path(settings.checkpoint), settings.model, num_classes, where)
        else:
            network, own = _from_file(Path(settings.checkpoint), settings.model, num_classes, where), data
    network = network.eval().requires_grad_(False)
    check_forward(
        network, image_shape, num_classes, f"{where}.{'checkpoint' if settings.checkpoint else 'pretrained'}:"
    )
    return network if own == data else Renormalized(network, data, own)


class Renormalized(nn.Module):
    """A network behind a conversion from the data's normalization to its own: `x * scale + shift`.

    Args:
        network: gets the converted images.
        data: normalization of the input.
        own: normalization that the network was trained with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, data: Normalization, own: Normalization) -> None:
        super().__init__()
        self.network = network
        data_mean, data_std, own_mean, own_std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (*data, *own)
        )
        self.register_buffer("scale", (data_std / own_std).float())
        self.register_buffer("shift", ((data_mean - own_mean) / own_std).float())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for images (B, 3, H, W) with the data's normalization."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def _from_run(folder: Path, model: str | None, num_classes: int, where: str) -> tuple[nn.Module, Normalization]:
    """Return the network of a run's folder best/, and its normalization."""
    try:
        network, card = read_network(folder)
    except (CheckpointError, ModelError) as error:
        raise CheckpointError(f"{where}.checkpoint: {error}") from error
    if model not in (None, card.model):
        raise CheckpointError(
            f"{where}.model: must be null or '{card.model}' as in {folder / 'config.json'}, got '{model}'; "
            f"leave model out"
        )
    _check_classes(card.num_classes, num_classes, f"{where}.checkpoint: {folder}")
    return network, Normalization(card.mean, card.std)


def _from_file(file: Path, model: str | None, num_classes: int, where: str) -> nn.Module:
    """Return a network with the weights of a file."""
    if not os.path.exists(file):
        raise CheckpointError(
            f"{where}.checkpoint: no such file or folder, got '{file}'; give a run's folder best/ "
            f"or a file of a state_dict"
        )
    if model is None:
        raise ModelError(
            f"{where}.model: must name the network of a file of weights, got null; write it as in model.name"
        )
    network = build(model, num_classes, f"{where}.model")
    try:
        weights = read_weights(file)
    except CheckpointError as error:
        raise CheckpointError(f"{where}.checkpoint: {error}") from error
    differences = _differences(network, weights, num_classes, f"{where}.checkpoint: {file}")
    if differences:
        more = f", and {len(differences) - 1} more names differ" if len(differences) > 1 else ""
        raise CheckpointError(
            f"{where}.checkpoint: {file}: holds another network than '{model}': {differences[0]}{more}; "
            f"set {where}.model to its network"
        )
    network.load_state_dict(weights)
    return network


def _differences(network: nn.Module, weights: dict[str, Tensor], num_classes: int, at: str) -> list[str]:
    """Return the differences between weights and a network's names and shapes, one phrase each.

    Raises:
        ModelError: they differ only in the number of classes.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    resized = {name: shape for name, shape in own.items() if found.get(name, shape) != shape}
    absent = [
        name for name in own if name not in found and not name.endswith("num_batches_tracked")
    ]  # absent before torch 0.4.1
    foreign = [name for name in found if name not in own]
    first_sizes = {(shape[:1], found[name][:1]) for name, shape in resized.items()}
    is_resized_only = not absent and not foreign and all(own[name][1:] == found[name][1:] for name in resized)
    if is_resized_only and len(first_sizes) == 1:
        ((own_size, found_size),) = first_sizes
        if own_size == (num_classes,) and found_size:
            _check_classes(found_size[0], num_classes, at)
    return [
        *(f"{name} has shape {found[name]}, not {shape}" for name, shape in resized.items()),
        *(f"{name} is missing" for name in absent),
        *(f"{name} is unexpected" for name in foreign),
    ]


def _check_classes(num_teacher_classes: int, num_classes: int, at: str) -> None:
    if num_teacher_classes != num_classes:
        raise ModelError(
            f"{at}: must have the {num_classes} classes of the data, got {num_teacher_classes}; choose another teacher"
        )


class Published(NamedTuple):
    """Weights that a library publishes for a network."""

    num_classes: int
    normalization: Normalization
    load: Callable[[], nn.Module]  # downloads the weights, unless cached


def _published(model: str | None, num_classes: int, where: str) -> tuple[nn.Module, Normalization]:
    """Return a network with published weights, downloaded unless cached, and its normalization."""
    if model is None or not model.startswith((TORCHVISION, TIMM)):
        raise ModelError(
            f"{where}.model: must be {TORCHVISION}NAME or {TIMM}NAME for pretrained: true, got "
            f"{model or 'null'}; or give a checkpoint"
        )
    find_model(model, f"{where}.model")
    at = f"{where}.pretrained: {model}"
    published = _torchvision_weights(model) if model.startswith(TORCHVISION) else _timm_weights(model)
    if published is None:
        raise ModelError(f"{at}: must have weights in timm, got none; choose from timm.list_pretrained()")
    _check_classes(published.num_classes, num_classes, at)
    try:
        with _socket_limit():
            return published.load(), published.normalization
    except Exception as error:  # urllib, httpx, huggingface_hub, safetensors and torch raise different ones
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise ModelError(
            f"{at}: its weights could not be downloaded or read: {reason}; download them on a machine with "
            f"network access, or give a checkpoint"
        ) from error


def _torchvision_weights(model: str) -> Published:
    import torchvision

    name = model.removeprefix(TORCHVISION)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    images = weights.transforms()
    return Published(
        len(weights.meta["categories"]),
        Normalization(tuple(images.mean), tuple(images.std)),
        lambda: torchvision.models.get_model(name, weights=weights, progress=False),
    )


def _timm_weights(model: str) -> Published | None:
    import timm

    name = model.removeprefix(TIMM)
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        return None
    return Published(
        published.num_classes,
        Normalization(tuple(published.mean), tuple(published.std)),
        lambda: timm.create_model(name, pretrained=True),
    )


@contextmanager
def _socket_limit() -> Iterator[None]:
    """Set the default timeout of sockets inside the block; torch.hub has no argument for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_LIMIT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
