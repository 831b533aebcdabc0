"""Weights that torchvision and timm publish for their networks."""

import socket
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from torch import nn

from graftpop.errors import ModelError
from graftpop.models import TIMM, TORCHVISION, find_model
from graftpop.models.normalization import Normalization, normalization

__all__ = ["Published", "published_weights"]

SOCKET_LIMIT_S: Final = 20.0  # seconds without a byte while weights are downloaded


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


def published_weights(model: str | None, args: Mapping[str, Any], where: str, key: str) -> Published:
    """Return the weights that are published for a network.

    Args:
        model: name of the network.
        args: keyword arguments of its builder.
        where: key of the name, for messages.
        key: key that asks for the weights, for messages.

    Raises:
        ModelError: the library is not one of the two, or it publishes no weights for the network.
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
        normalization(images.mean, images.std),
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
        normalization(published.mean, published.std),
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
