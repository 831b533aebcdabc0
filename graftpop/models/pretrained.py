"""Pretrained networks, as teachers or to start from: a run's best network, a file of weights, or published weights.

Students get images normalized by their data set's recipe. A teacher trained with another normalization gets a first
layer that converts between the two. Peers that start from weights train on images with the normalization of these
weights, so that no layer is added to their network, and its card describes the input. A plain file of weights is
assumed to have the data set's normalization.
"""

import os
import socket
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import TIMM, TORCHVISION, build, find_model
from graftpop.models.catalog import INCEPTIONS
from graftpop.models.forward_check import check_forward
from graftpop.models.network_file import read_card_and_weights, read_network
from graftpop.models.weight_file import read_any_weights, read_weights
from graftpop.seeds import seeded
from graftpop.settings import ModelSettings, TeacherSettings

__all__ = ["Normalization", "Renormalized", "Start", "find_start", "load_teacher"]

SOCKET_LIMIT_S: Final = 20.0  # seconds without a byte while weights are downloaded


Color = tuple[float, float, float]


class Normalization(NamedTuple):
    """Normalization `(x - mean) / std` of RGB pixels in [0, 1]."""

    mean: Color
    std: Color


def _color(values: Sequence[float]) -> Color:
    red, green, blue = values
    return red, green, blue


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
    data = Normalization(_color(mean), _color(std))
    with seeded(0, torch.device("cpu")):  # initial weights must not advance the global generator
        if settings.checkpoint is None:
            published = _published(settings.model, settings.args, f"{where}.model", f"{where}.pretrained")
            _check_classes(published.num_classes, num_classes, published.where)
            network, own = published.load(), published.normalization
        elif os.path.isdir(settings.checkpoint):
            network, own = _from_run(Path(settings.checkpoint), settings, num_classes, where)
        else:
            network, own = _from_file(Path(settings.checkpoint), settings, num_classes, where), data
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


HALF: Final = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
AUXILIARY: Final = "AuxLogits."
"""Prefix of the auxiliary output of torchvision's Inception v3, which comes with its published weights only."""


class Start(NamedTuple):
    """Weights that every peer starts from.

    Attributes:
        where: key and name or path of the weights, for messages.
        normalization: normalization of the images; None: that of the data's recipe.
        read: returns the state_dict; downloads published weights, unless cached.
        has_head: whether the weights include an output layer.
    """

    where: str
    normalization: Normalization | None
    read: Callable[[], Mapping[str, Tensor]]
    has_head: bool = True

    def load_into_(self, network: nn.Module, num_classes: int, name: str) -> str | None:
        """Load the weights into a new network, but for an output layer of other classes; return a note on that layer.

        Args:
            network: network with initial weights, which its output layer then keeps.
            num_classes: number of its classes.
            name: name of the network, for messages.

        Raises:
            CheckpointError: the weights are absent, damaged, or belong to another network.
            ModelError: published weights cannot be downloaded.
        """
        weights = dict(self.read())
        found = _compare(network, weights, num_classes, has_head=self.has_head)
        if found.differences:
            raise CheckpointError(
                f"{self.where}: {_another_network(name, found.differences)}; set model.name and model.args to its "
                f"network"
            )
        own = network.state_dict()
        network.load_state_dict({**own, **weights, **{key: own[key] for key in found.head}})
        if not found.head:
            return None
        old = f"its output layer of {found.num_classes} classes is" if found.num_classes else "its output layer is"
        return f"{self.where}: {old} new, with {num_classes} classes: {', '.join(found.head)}"


def find_start(model: ModelSettings) -> Start | None:
    """Return the weights that every peer starts from; None if it starts from initial weights.

    Raises:
        CheckpointError: `checkpoint` is absent or damaged.
        ModelError: no weights are published for the network.
    """
    if model.pretrained:
        is_inception = model.name.removeprefix(TORCHVISION) in INCEPTIONS
        args = {**({"transform_input": False} if is_inception else {}), **model.args}
        published = _published(model.name, args, "model.name", "model.pretrained")
        # these convert ImageNet's normalization to their own, unless transform_input is false as in a new network
        own = HALF if is_inception and not args["transform_input"] else published.normalization

        def read() -> Mapping[str, Tensor]:
            with seeded(0, torch.device("cpu")):  # soon replaced weights must not advance the generator
                weights = published.load().state_dict()
            return {name: tensor for name, tensor in weights.items() if not name.startswith(AUXILIARY)}

        return Start(published.where, own, read, has_head=published.num_classes > 0)
    if model.checkpoint is None:
        return None
    place, where = Path(model.checkpoint), "model.checkpoint"
    _check_exists(place, where)
    try:
        if not place.is_dir():
            weights = read_any_weights(place)
            return Start(f"{where}: {place}", None, lambda: weights)
        card, weights = read_card_and_weights(place)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return Start(f"{where}: {place}", Normalization(card.mean, card.std), lambda: weights)


def _check_exists(place: Path, where: str) -> None:
    if not os.path.exists(place):
        raise CheckpointError(
            f"{where}: no such file or folder, got '{place}'; give a run's folder best/ or a file of a state_dict"
        )


def _from_run(folder: Path, settings: TeacherSettings, num_classes: int, where: str) -> tuple[nn.Module, Normalization]:
    """Return the network of a run's folder best/, and its normalization."""
    try:
        network, card = read_network(folder)
    except (CheckpointError, ModelError) as error:
        raise CheckpointError(f"{where}.checkpoint: {error}") from error
    given = {"model": settings.model, "args": settings.args or None}
    for key, own in (("model", card.model), ("args", card.args)):
        if given[key] not in (None, own):
            raise CheckpointError(
                f"{where}.{key}: must be null or {own!r} as in {folder / 'config.json'}, got {given[key]!r}; "
                f"leave {key} out"
            )
    _check_classes(card.num_classes, num_classes, f"{where}.checkpoint: {folder}")
    return network, Normalization(card.mean, card.std)


def _from_file(file: Path, settings: TeacherSettings, num_classes: int, where: str) -> nn.Module:
    """Return a network with the weights of a file."""
    _check_exists(file, f"{where}.checkpoint")
    model = settings.model
    if model is None:
        raise ModelError(
            f"{where}.model: must name the network of a file of weights, got null; write it as in model.name"
        )
    network = build(model, num_classes, f"{where}.model", settings.args)
    try:
        weights = read_weights(file)
    except CheckpointError as error:
        raise CheckpointError(f"{where}.checkpoint: {error}") from error
    found = _compare(network, weights, num_classes)
    if found.head:
        _check_classes(found.num_classes, num_classes, f"{where}.checkpoint: {file}")
    if found.differences:
        raise CheckpointError(
            f"{where}.checkpoint: {file}: {_another_network(model, found.differences)}; "
            f"set {where}.model to its network"
        )
    network.load_state_dict(weights)
    return network


def _another_network(name: str, differences: Sequence[str]) -> str:
    more = f", and {len(differences) - 1} more names differ" if len(differences) > 1 else ""
    return f"holds another network than '{name}': {differences[0]}{more}"


class _Comparison(NamedTuple):
    """Comparison of weights with a network.

    Attributes:
        differences: differences in names and shapes, one phrase each; empty if only the output layer differs.
        head: entries of the output layer, if it alone differs.
        num_classes: number of its classes in the weights; 0: they have none.
    """

    differences: Sequence[str]
    head: Sequence[str] = ()
    num_classes: int = 0


def _compare(
    network: nn.Module, weights: Mapping[str, Tensor], num_classes: int, *, has_head: bool = True
) -> _Comparison:
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
            return _Comparison([], [*resized], found_size[0])
    if not (has_head or resized or foreign) and all(own[name][:1] == (num_classes,) for name in absent):
        return _Comparison([], absent)
    return _Comparison(
        [
            *(f"{name} has shape {found[name]}, not {shape}" for name, shape in resized.items()),
            *(f"{name} is missing" for name in absent),
            *(f"{name} is unexpected" for name in foreign),
        ]
    )


def _check_classes(num_teacher_classes: int, num_classes: int, at: str) -> None:
    if num_teacher_classes != num_classes:
        raise ModelError(
            f"{at}: must have the {num_classes} classes of the data, got {num_teacher_classes}; choose another teacher"
        )


class Published(NamedTuple):
    """Weights that a library publishes for a network.

    Attributes:
        where: key and name of the network, for messages.
        num_classes: number of classes; 0: the weights have no output layer.
        normalization: normalization of the images.
        make: returns the network with the weights, downloaded unless cached.
    """

    where: str
    num_classes: int
    normalization: Normalization
    make: Callable[[], nn.Module]

    def load(self) -> nn.Module:
        """Return the network with the weights, downloaded unless cached.

        Raises:
            ModelError: the weights cannot be downloaded or read.
        """
        try:
            with _socket_limit():
                return self.make()
        except Exception as error:  # urllib, httpx, huggingface_hub, safetensors and torch raise different ones
            reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
            raise ModelError(
                f"{self.where}: its weights could not be downloaded or read: {reason}; download them on a machine with "
                f"network access, or give a checkpoint"
            ) from error


def _published(model: str | None, args: Mapping[str, Any], where: str, key: str) -> Published:
    """Return the weights that are published for a network.

    Args:
        model: name of the network.
        args: keyword arguments of its builder.
        where: key of the name, for messages.
        key: key that asks for the weights, for messages.
    """
    if model is None or not model.startswith((TORCHVISION, TIMM)):
        raise ModelError(
            f"{where}: must be {TORCHVISION}NAME or {TIMM}NAME for pretrained: true, got "
            f"{model or 'null'}; or give a checkpoint"
        )
    find_model(model, where, args)
    at = f"{key}: {model}"
    published = (
        _torchvision_weights(model, args, at) if model.startswith(TORCHVISION) else _timm_weights(model, args, at)
    )
    if published is None:
        raise ModelError(f"{at}: must have weights in timm, got none; choose from timm.list_pretrained()")
    return published


def _torchvision_weights(model: str, args: Mapping[str, Any], at: str) -> Published:
    import torchvision

    name = model.removeprefix(TORCHVISION)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    images = weights.transforms()
    return Published(
        at,
        len(weights.meta["categories"]),
        Normalization(_color(images.mean), _color(images.std)),
        lambda: torchvision.models.get_model(name, weights=weights, progress=False, **args),
    )


def _timm_weights(model: str, args: Mapping[str, Any], at: str) -> Published | None:
    import timm

    name = model.removeprefix(TIMM)
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        return None
    return Published(
        at,
        published.num_classes,
        Normalization(_color(published.mean), _color(published.std)),
        lambda: timm.create_model(name, pretrained=True, **args),
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
