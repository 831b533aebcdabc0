"""The networks that a population can be made of, chosen by name.

All take RGB images, (N, 3, H, W), and give logits, (N, num_classes). Those of MODELS are the papers' forms for 32x32
images and end in a global average, so that other sizes work as far as their strides permit; their weights come from
torch's global generator. Activations overwrite what BatchNorm or a sum gave them, which no gradient needs. A new
network is one class or function of `num_classes` and one line in MODELS.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

from torch import nn

from graftpop.errors import GraftpopError, ModelError, choose, describe_exception
from graftpop.models.densenet import DenseNet
from graftpop.models.mobilenetv2 import MobileNetV2
from graftpop.models.resnet import ResNet
from graftpop.models.resnext import ResNeXt
from graftpop.models.vgg import VGG16
from graftpop.models.wide_resnet import WideResNet

__all__ = ["MODELS", "PYTHON", "TIMM", "TORCHVISION", "build", "find_model"]

MODELS: Final[Mapping[str, Callable[[int], nn.Module]]] = {
    "resnet8": partial(ResNet, 1, nn.ReLU),
    "resnet20": partial(ResNet, 3, nn.ReLU),
    "resnet32": partial(ResNet, 5, nn.ReLU),
    "resnet44": partial(ResNet, 7, nn.ReLU),
    "resnet56": partial(ResNet, 9, nn.ReLU),
    "resnet110": partial(ResNet, 18, nn.ReLU),
    "resnet8_leaky": partial(ResNet, 1, nn.LeakyReLU),
    "resnet20_leaky": partial(ResNet, 3, nn.LeakyReLU),
    "resnet32_leaky": partial(ResNet, 5, nn.LeakyReLU),
    "resnet44_leaky": partial(ResNet, 7, nn.LeakyReLU),
    "resnet56_leaky": partial(ResNet, 9, nn.LeakyReLU),
    "resnet110_leaky": partial(ResNet, 18, nn.LeakyReLU),
    "mobilenetv2": MobileNetV2,
    "vgg16": VGG16,
    "wrn28_10": partial(WideResNet, 4, 10),
    "densenet": partial(DenseNet, 16, 12),  # DenseNet-BC, 100 layers, growth rate 12
    "resnext": partial(ResNeXt, 3, 8, 64),  # ResNeXt-29, 8x64d
}
TORCHVISION: Final = "torchvision:"
TIMM: Final = "timm:"
PYTHON: Final = "python:"


def find_model(name: str, where: str = "model.name") -> Callable[[int], nn.Module]:
    """Return the function from a number of classes to a new network, its weights from torch's global generator.

    Args:
        name: a key of MODELS, `torchvision:NAME` or `timm:NAME` for a classifier of torchvision or timm, or
            `python:MODULE.CLASS` for one's own.
        where: where the name was given, for messages.

    Raises:
        ModelError: no such network, or timm is not installed.
    """
    if name.startswith(TORCHVISION):
        return torchvision_classifier(name.removeprefix(TORCHVISION), where)
    if name.startswith(TIMM):
        return timm_classifier(name.removeprefix(TIMM), where)
    if name.startswith(PYTHON):
        return user_classifier(name.removeprefix(PYTHON), where)
    try:
        return choose(MODELS, name, what=where, error=ModelError)
    except ModelError as error:
        raise ModelError(
            f"{error}; {TORCHVISION}NAME builds a classifier of torchvision, {TIMM}NAME of timm, "
            f"{PYTHON}MODULE.CLASS one's own"
        ) from None


def build(name: str, num_classes: int, where: str = "model.name") -> nn.Module:
    """Return a new network of that name; see `find_model`."""
    return find_model(name, where)(num_classes)


def torchvision_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    """Return the function that builds torchvision's classifier of that name, without trained weights.

    Raises:
        ModelError: torchvision has no such classifier; networks for detection, segmentation and video are none.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        hint = _near(TORCHVISION, name, names) or "torchvision.models.list_models(module=torchvision.models) lists them"
        raise ModelError(f"{where}: not a classifier of torchvision, got '{TORCHVISION}{name}'; {hint}")
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):  # by default they return auxiliary logits and warn about initialisation
        options |= {"aux_logits": False, "init_weights": True}
    return lambda num_classes: torchvision.models.get_model(name, num_classes=num_classes, **options)


def timm_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    """Return the function that builds timm's classifier of that name, without trained weights.

    Args:
        name: of an architecture, as `resnet18`, or of one with its weights, as `resnet18.a1_in1k`.
        where: where the name was given, for messages.

    Raises:
        ModelError: timm has no such classifier, or is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{where}: needs timm, which is not installed, got '{TIMM}{name}'; pip install 'graftpop[timm]'"
        ) from error

    names = [*timm.list_models(), *timm.list_pretrained()]
    if name not in names:  # timm would take an address as well, and fetch what lies there
        hint = _near(TIMM, name, names) or "timm.list_models() lists them"
        raise ModelError(f"{where}: not a classifier of timm, got '{TIMM}{name}'; {hint}")
    return lambda num_classes: timm.create_model(name, pretrained=False, num_classes=num_classes)


def user_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    """Return a class of networks in a module that Python can import, such as a file where the command was typed.

    Args:
        name: MODULE.CLASS; an instance is made from the number of classes.
        where: where the name was given, for messages.

    Raises:
        ModelError: there is no such module, or no such class of networks in it; also when an instance cannot be made.
    """
    module, _, attribute = name.rpartition(".")
    if os.getcwd() not in sys.path:  # the command `graftpop` does not look there, `python -m` does
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute) if module else None
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{where}: '{PYTHON}{name}' cannot be imported: {error}; start the command where {module} "
            f"lies, or install it on every node"
        ) from error
    except Exception as error:  # a module of the user's may do anything
        raise ModelError(
            f"{where}: '{PYTHON}{name}' cannot be imported: {describe_exception(error)}; mend {module}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):  # nothing else is called: a file may name it
        raise ModelError(
            f"{where}: must be {PYTHON}MODULE.CLASS, a class of torch.nn.Module that takes the number of "
            f"classes, got '{PYTHON}{name}'"
        )

    def make(num_classes: int) -> nn.Module:
        try:
            network: nn.Module = found(num_classes)
        except GraftpopError:  # it is made where a checkpoint allows for so much
            raise
        except Exception as error:  # and so may its class
            raise ModelError(
                f"{where}: must be a class that is called with the number of classes, got {describe_exception(error)} "
                f"from {PYTHON}{name}({num_classes}); mend it"
            ) from error
        return network

    return make


def _near(prefix: str, name: str, names: list[str]) -> str:
    matches = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(prefix + match for match in matches)}?" if matches else ""
