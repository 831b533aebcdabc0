"""Networks by name.

All map RGB images (N, 3, H, W) to logits (N, num_classes). Those of MODELS are the papers' forms for 32x32 images. They
end in a global average, so other sizes work as far as the strides permit. Initial weights come from torch's global
generator. Activations are in place: no gradient needs their inputs. To add a network, write a class or function of
`num_classes` and add a line to MODELS.
"""

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
from graftpop.user_code import PYTHON, import_user_code

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


def find_model(name: str, where: str = "model.name") -> Callable[[int], nn.Module]:
    """Return a function from the number of classes to a new network, initialized by torch's global generator.

    Args:
        name: a key of MODELS; `torchvision:NAME` or `timm:NAME` for a classifier of torchvision or timm;
            `python:MODULE.CLASS` for a user-defined class.
        where: key where the name was given, for messages.

    Raises:
        ModelError: unknown network, or timm is not installed.
    """
    if name.startswith(TORCHVISION):
        return torchvision_classifier(name.removeprefix(TORCHVISION), where)
    if name.startswith(TIMM):
        return timm_classifier(name.removeprefix(TIMM), where)
    if name.startswith(PYTHON):
        return user_classifier(name.removeprefix(PYTHON), where)
    try:
        return choose(MODELS, name, where, ModelError)
    except ModelError as error:
        raise ModelError(
            f"{error}; {TORCHVISION}NAME builds a classifier of torchvision, {TIMM}NAME of timm, "
            f"{PYTHON}MODULE.CLASS a user-defined class"
        ) from None


def build(name: str, num_classes: int, where: str = "model.name") -> nn.Module:
    """Return a new network; arguments and errors as in `find_model`."""
    return find_model(name, where)(num_classes)


def torchvision_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    """Return the function that builds a classifier of torchvision with initial weights.

    Args:
        name: name of the classifier, such as `resnet18`.
        where: key where the name was given, for messages.

    Raises:
        ModelError: no such image classifier in torchvision.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        hint = (
            _did_you_mean(TORCHVISION, name, names)
            or "torchvision.models.list_models(module=torchvision.models) lists them"
        )
        raise ModelError(f"{where}: not a classifier of torchvision, got '{TORCHVISION}{name}'; {hint}")
    options: dict[str, Any] = {"weights": None}
    if name in (
        "googlenet",
        "inception_v3",
    ):  # by default these return auxiliary logits and warn about their initialization
        options |= {"aux_logits": False, "init_weights": True}
    return lambda num_classes: torchvision.models.get_model(name, num_classes=num_classes, **options)


def timm_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    """Return the function that builds a classifier of timm with initial weights.

    Args:
        name: name of an architecture (`resnet18`), or with a tag of weights (`resnet18.a1_in1k`).
        where: key where the name was given, for messages.

    Raises:
        ModelError: no such classifier in timm, or timm is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{where}: needs timm, which is not installed, got '{TIMM}{name}'; pip install 'graftpop[timm]'"
        ) from error

    names = [*timm.list_models(), *timm.list_pretrained()]
    if name not in names:  # timm also accepts addresses, and downloads from them
        hint = _did_you_mean(TIMM, name, names) or "timm.list_models() lists them"
        raise ModelError(f"{where}: not a classifier of timm, got '{TIMM}{name}'; {hint}")
    return lambda num_classes: timm.create_model(name, pretrained=False, num_classes=num_classes)


def user_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    """Return the function that builds an instance of a user-defined class; it raises ModelError if that fails.

    The module is imported, from the working directory too.

    Args:
        name: MODULE.CLASS; the class is called with the number of classes.
        where: key where the name was given, for messages.

    Raises:
        ModelError: the module cannot be imported, or has no such subclass of torch.nn.Module.
    """
    found = import_user_code(f"{PYTHON}{name}", where, ModelError)
    if not (
        isinstance(found, type) and issubclass(found, nn.Module)
    ):  # the name may come from a file: call nothing else
        raise ModelError(
            f"{where}: must be {PYTHON}MODULE.CLASS, a class of torch.nn.Module that takes the number of "
            f"classes, got '{PYTHON}{name}'"
        )

    def make(num_classes: int) -> nn.Module:
        try:
            network: nn.Module = found(num_classes)
        except GraftpopError:  # from the parameter limit while a checkpoint is loaded
            raise
        except Exception as error:  # user code may raise anything
            raise ModelError(
                f"{where}: must be a class that is called with the number of classes, got {describe_exception(error)} "
                f"from {PYTHON}{name}({num_classes}); fix it"
            ) from error
        return network

    return make


def _did_you_mean(prefix: str, name: str, names: list[str]) -> str:
    matches = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(prefix + match for match in matches)}?" if matches else ""
