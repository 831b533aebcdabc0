"""Networks by name.

All map RGB images (N, 3, H, W) to logits (N, num_classes). Those of MODELS are the papers' forms for 32x32 images. They
end in a global average, so other sizes work as far as the strides permit. Initial weights come from torch's global
generator. Activations are in place: no gradient needs their inputs. To add a network, write a class or function of
`num_classes` and add a line to MODELS.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

from torch import nn

from graftpop.errors import GraftpopError, ModelError, choose, closest, describe_exception
from graftpop.models.densenet import DenseNet
from graftpop.models.mobilenetv2 import MobileNetV2
from graftpop.models.resnet import ResNet
from graftpop.models.resnext import ResNeXt
from graftpop.models.vgg import VGG16
from graftpop.models.wide_resnet import WideResNet
from graftpop.user_code import PYTHON, import_user_code

__all__ = ["INCEPTIONS", "MODELS", "PYTHON", "TIMM", "TORCHVISION", "build", "find_model"]

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
INCEPTIONS: Final = ("googlenet", "inception_v3")
"""Classifiers of torchvision with auxiliary outputs."""

START: Final = "set model.pretrained or model.checkpoint"
INSTEAD_OF: Final[Mapping[str, str]] = {
    "num_classes": "leave it out, since the data has the classes",
    **dict.fromkeys(("pretrained", "weights"), START),
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"), START),
}
"""Arguments that decide on classes, or make a builder read weights; with the next step of the error."""


def find_model(
    name: str, where: str = "model.name", args: Mapping[str, Any] | None = None
) -> Callable[[int], nn.Module]:
    """Return a function from the number of classes to a new network, initialized by torch's global generator.

    Args:
        name: a key of MODELS; `torchvision:NAME` or `timm:NAME` for a classifier of torchvision or timm;
            `python:MODULE.CLASS` for a user-defined class.
        where: key where the name was given, for messages.
        args: keyword arguments of the network, of the builder of torchvision or timm, or of the class; the function
            raises ModelError for those that it refuses.

    Raises:
        ModelError: unknown network or argument, or timm is not installed.
    """
    args = args or {}
    at = _args_key(where)
    for refused in INSTEAD_OF.keys() & args.keys():
        raise ModelError(f"{at}: must leave classes and weights to other keys, got {refused}; {INSTEAD_OF[refused]}")
    if name.startswith(TORCHVISION):
        make = torchvision_classifier(name.removeprefix(TORCHVISION), where, args)
    elif name.startswith(TIMM):
        make = timm_classifier(name.removeprefix(TIMM), where, args)
    elif name.startswith(PYTHON):
        return user_classifier(name.removeprefix(PYTHON), where, args)
    else:
        own = _own_classifier(name, where)
        _check_arguments(own, name, at, args)
        make = partial(own, **args)
    return _with_refusal(make, f"{at}: must be arguments of '{name}', got {args}") if args else make


def build(name: str, num_classes: int, where: str = "model.name", args: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a new network; arguments and errors as in `find_model`."""
    return find_model(name, where, args)(num_classes)


def _args_key(where: str) -> str:
    """Return the key of the arguments that belong to the key of a name: `model.args` for `model.name`."""
    return re.sub(r"\w+$", "args", where)


def _own_classifier(name: str, where: str) -> Callable[[int], nn.Module]:
    try:
        return choose(MODELS, name, where, ModelError)
    except ModelError as error:
        raise ModelError(
            f"{error}; {TORCHVISION}NAME builds a classifier of torchvision, {TIMM}NAME of timm, "
            f"{PYTHON}MODULE.CLASS a user-defined class"
        ) from None


def _with_refusal(make: Callable[[int], nn.Module], refusal: str) -> Callable[[int], nn.Module]:
    """Return a builder whose exceptions are errors for the user."""

    def made(num_classes: int) -> nn.Module:
        try:
            return make(num_classes)
        except GraftpopError:  # from the parameter limit while a checkpoint is loaded
            raise
        except Exception as error:  # a builder may raise anything for unsuitable arguments
            raise ModelError(f"{refusal}, which raises {describe_exception(error)}; change or remove them") from error

    return made


def torchvision_classifier(name: str, where: str, args: Mapping[str, Any]) -> Callable[[int], nn.Module]:
    """Return the function that builds a classifier of torchvision with initial weights.

    Args:
        name: name of the classifier, such as `resnet18`.
        where: key where the name was given, for messages.
        args: keyword arguments of its builder.

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
    if name in INCEPTIONS:  # by default these return auxiliary logits and warn about their initialization
        options |= {"aux_logits": False, "init_weights": True}
    return lambda num_classes: torchvision.models.get_model(name, num_classes=num_classes, **{**options, **args})


def timm_classifier(name: str, where: str, args: Mapping[str, Any]) -> Callable[[int], nn.Module]:
    """Return the function that builds a classifier of timm with initial weights.

    Args:
        name: name of an architecture (`resnet18`), or with a tag of weights (`resnet18.a1_in1k`).
        where: key where the name was given, for messages.
        args: keyword arguments of `timm.create_model`.

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
    return lambda num_classes: timm.create_model(name, pretrained=False, num_classes=num_classes, **args)


def user_classifier(name: str, where: str, args: Mapping[str, Any]) -> Callable[[int], nn.Module]:
    """Return the function that builds an instance of a user-defined class; it raises ModelError if that fails.

    The module is imported, from the working directory too.

    Args:
        name: MODULE.CLASS; the class is called with the number of classes.
        where: key where the name was given, for messages.
        args: keyword arguments of the class, after the number of classes.

    Raises:
        ModelError: the module cannot be imported, has no such subclass of torch.nn.Module, or the class does not take
            an argument.
    """
    found = import_user_code(f"{PYTHON}{name}", where, ModelError)
    if not (
        isinstance(found, type) and issubclass(found, nn.Module)
    ):  # the name may come from a file: call nothing else
        raise ModelError(
            f"{where}: must be {PYTHON}MODULE.CLASS, a class of torch.nn.Module that takes the number of "
            f"classes, got '{PYTHON}{name}'"
        )
    _check_arguments(found, f"{PYTHON}{name}", _args_key(where), args)

    def make(num_classes: int) -> nn.Module:
        try:
            network: nn.Module = found(num_classes, **args)
        except GraftpopError:  # from the parameter limit while a checkpoint is loaded
            raise
        except Exception as error:  # user code may raise anything
            call = ", ".join([str(num_classes), *(f"{name}={value!r}" for name, value in args.items())])
            raise ModelError(
                f"{where}: must be a class that is called with the number of classes, got {describe_exception(error)} "
                f"from {PYTHON}{name}({call}); fix it"
            ) from error
        return network

    return make


def _check_arguments(builder: Callable[..., nn.Module], name: str, at: str, args: Mapping[str, Any]) -> None:
    """Check that a builder takes some keyword arguments after the number of classes."""
    parameters = list(inspect.signature(builder).parameters.values())[1:] if args else []
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    unknown = [argument for argument in args if argument not in names]
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in parameters):
        raise ModelError(
            f"{at}: must be arguments of {name}, got {unknown[0]}; choose from "
            f"{', '.join(names) or 'none'}{closest(unknown[0], names)}"
        )


def _did_you_mean(prefix: str, name: str, names: list[str]) -> str:
    matches = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(prefix + match for match in matches)}?" if matches else ""
