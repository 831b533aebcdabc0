"""The optimizers that `training.optimizer` names: ours, torch's and timm's.

`lr`, `weight_decay` and `momentum` come from the section training, and everything else from the optimizer's own
defaults and the section's arguments.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn

from graftpop.errors import ModelError, SpaceError, closest, describe_exception
from graftpop.settings import TrainingSettings
from graftpop.settings.optimizer import TIMM
from graftpop.training.optimizers import MakeOptimizer, Optimizer, TorchOptimizer
from graftpop.training.sgd import MomentumSGD

__all__ = [
    "TORCH_OPTIMIZERS",
    "SET_IN_TRAINING",
    "argument_defaults",
    "check_optimizer",
    "check_user_optimizer",
    "hidden_weights",
    "named_optimizer",
]

TORCH_OPTIMIZERS: Final[Mapping[str, type[torch.optim.Optimizer]]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "muon": torch.optim.Muon,
}
"""torch's optimizers that step without a closure and whose state has the shapes of the parameters."""

SET_IN_TRAINING: Final = ("lr", "weight_decay", "momentum")
NO_ARGUMENTS: Final = ("params", "maximize", "foreach", "fused", "capturable", "differentiable")
"""Parameters of constructors that choose how a step is computed, or reverse its direction."""

MUON_ARGUMENTS: Final = {"adjust_lr_fn": "match_rms_adamw"}

TRIAL_SHAPES: Final = ((32, 16, 3, 3), (32,), (32, 24), (4, 32))
"""Shapes of the weights on which an optimizer is tried; large enough for states with shapes of their own."""


def named_optimizer(network: nn.Module, training: TrainingSettings, lr: float) -> Optimizer:
    """Return the optimizer of a network that the settings name.

    With `muon`, torch's Muon trains the weights of `hidden_weights`, and AdamW everything else: convolutions,
    embeddings, first and last layer, biases and normalization. Both have one learning rate, so Muon's steps are scaled
    to the size of AdamW's (`adjust_lr_fn: match_rms_adamw`) unless that argument is given.

    Args:
        network: the network to train.
        training: the optimizer with its arguments, momentum and weight decay.
        lr: the highest learning rate of the training; timm's optimizers with a corrected weight decay refer to it.

    Raises:
        ModelError: `muon` has no weight to train.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
        https://kellerjordan.github.io/posts/muon; the scale is that of Liu et al., Muon is Scalable for LLM Training,
        2025, arXiv:2502.16982.
    """
    parameters = dict(network.named_parameters())
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in training.optimizer.arguments.items()
    }
    if training.optimizer.name == "sgd":
        return MomentumSGD(
            parameters,
            lr=lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            undecayed=()
            if training.decay_norm_and_bias
            else [name for name in parameters if _is_vector(parameters[name])],
            **arguments,
        )
    return TorchOptimizer(parameters, lambda _: _torch_optimizer(network, parameters, training, lr, arguments))


def _torch_optimizer(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    training: TrainingSettings,
    lr: float,
    arguments: Mapping[str, Any],
) -> torch.optim.Optimizer:
    name = training.optimizer.name
    common: dict[str, Any] = {"lr": lr, "weight_decay": training.weight_decay}
    momentum: dict[str, Any] = {"momentum": training.momentum}
    if name.startswith(TIMM):
        create: Callable[..., torch.optim.Optimizer] = import_module("timm.optim").create_optimizer_v2
        return create(
            _groups(parameters.values(), training), name.removeprefix(TIMM), **common, **momentum, **arguments
        )
    if name == "muon":
        hidden = hidden_weights(network)
        rest = [parameter for key, parameter in parameters.items() if key not in hidden]
        return _Both(
            torch.optim.Muon(list(hidden.values()), **common, **momentum, **(MUON_ARGUMENTS | dict(arguments))),
            torch.optim.AdamW(_groups(rest, training), **common),
        )
    make: Callable[..., torch.optim.Optimizer] = TORCH_OPTIMIZERS[name]
    if "momentum" in inspect.signature(make).parameters:
        common |= momentum
    return make(_groups(parameters.values(), training), **common, **arguments)


def _is_vector(parameter: Tensor) -> bool:
    return parameter.dim() < 2


def _groups(parameters: Iterable[nn.Parameter], training: TrainingSettings) -> list[dict[str, Any]]:
    """Return the parameter groups: one for all parameters, or a separate one for those without weight decay."""
    if training.decay_norm_and_bias:
        return [{"params": list(parameters)}]
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in parameters:
        groups[_is_vector(parameter)].append(parameter)
    return [
        {"params": group, **options}
        for group, options in zip(groups, ({}, {"weight_decay": 0.0}), strict=True)
        if group
    ]


def hidden_weights(network: nn.Module, name: str = "") -> dict[str, nn.Parameter]:
    """Return the 2-d weights of hidden layers by name, which `muon` trains.

    The first and the last weight with two or more axes, in the order of the modules, belong to the input and the output
    layer; embeddings are input layers too.

    Args:
        network: any network.
        name: its name, for messages.

    Raises:
        ModelError: there are none.
    """
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    weights = {name: weight for name, weight in network.named_parameters() if not _is_vector(weight)}
    hidden = {
        name: weight for name, weight in list(weights.items())[1:-1] if weight.dim() == 2 and id(weight) not in tables
    }
    if not hidden:
        raise ModelError(
            "training.optimizer.name: muon needs hidden layers with 2-d weights, such as Linear or attention, got none "
            f"in '{name or type(network).__name__}'; choose adamw, or timm:muon, which takes convolutions too"
        )
    return hidden


class _Both(torch.optim.Optimizer):
    """Two optimizers of different parameters as one: their groups one after the other, and one state."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self._optimizers = optimizers
        for optimizer in optimizers:
            optimizer.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Take a step of each."""
        for optimizer in self._optimizers:
            optimizer.step()


def argument_defaults(name: str, where: str) -> dict[str, Any]:
    """Return the arguments of an optimizer with their defaults.

    Args:
        name: a value of `training.optimizer.name`.
        where: start of messages.

    Raises:
        SpaceError: timm is not installed, or has no such optimizer.
    """
    if name == "sgd":
        return {"nesterov": False}
    parameters = inspect.signature(
        _timm_class(name, where) if name.startswith(TIMM) else TORCH_OPTIMIZERS[name]
    ).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not parameter.empty and key not in (*SET_IN_TRAINING, *NO_ARGUMENTS)
    }


def _timm_class(name: str, where: str) -> Callable[..., Any]:
    if find_spec("timm") is None:
        raise SpaceError(
            f"{where}: {name} needs the package timm, which is not installed; pip install 'graftpop[timm]'"
        )
    timms = import_module("timm.optim")
    names = [f"{TIMM}{known}" for known in timms.list_optimizers()]
    if name not in names:
        raise SpaceError(f"{where}: unknown name '{name}'; timm.optim.list_optimizers() has them{closest(name, names)}")
    try:
        found: Callable[..., Any] = timms.get_optimizer_class(name.removeprefix(TIMM), bind_defaults=False)
    except Exception as error:  # of those from packages that are not installed, anything
        raise SpaceError(f"{where}: cannot use '{name}': {describe_exception(error)}; choose another") from error
    return found


def check_optimizer(training: TrainingSettings, where: str, *, drops_filters: bool = False) -> None:
    """Check that an optimizer accepts the values of its arguments, and resumes to the bit: it trains a few weights.

    Args:
        training: the settings, with arguments that exist.
        where: start of messages.
        drops_filters: whether it must leave dropped filters at zero.

    Raises:
        SpaceError: it does not.
    """
    weights = (torch.linspace(-1, 1, math.prod(shape)).reshape(shape) for shape in TRIAL_SHAPES)
    _try(
        nn.ParameterDict({str(index): nn.Parameter(weight) for index, weight in enumerate(weights)}),
        partial(named_optimizer, training=training, lr=0.01),
        where,
        f"{training.optimizer.name} with {training.optimizer.arguments or 'no arguments'}",
        drops_filters=drops_filters,
    )


def check_user_optimizer(make: MakeOptimizer, network: nn.Module, *, drops_filters: bool = False) -> None:
    """Check that a user-defined optimizer trains copies of a network, and resumes to the bit.

    Args:
        make: makes the optimizer.
        network: a new network; not changed.
        drops_filters: whether it must leave dropped filters at zero.

    Raises:
        SpaceError: it does not.
    """
    _try(
        network,
        lambda copied: TorchOptimizer(dict(copied.named_parameters()), make),
        "optimizer",
        type(make(network.parameters())).__name__,
        drops_filters=drops_filters,
    )


def _try(
    network: nn.Module, make: Callable[[nn.Module], Optimizer], where: str, shown: str, *, drops_filters: bool
) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that would make it faster
            whole, resumed = (_TrialRun(copy.deepcopy(network), make) for _ in range(2))
            whole.take_steps(0, 2)
            resumed.resume(whole)
            for each in (whole, resumed):
                each.take_steps(2, 4)
    except Exception as error:  # optimizers of timm and of users raise anything
        raise SpaceError(
            f"{where}: must train and resume, got {shown}: {describe_exception(error)}; change its arguments, or "
            f"choose another"
        ) from error
    if not all(map(torch.equal, whole.weights, resumed.weights)):
        raise SpaceError(
            f"{where}: must resume from its state to the bit, got {shown}, which keeps values elsewhere; choose another"
        )
    if drops_filters and whole.moves_dropped():
        raise SpaceError(
            f"{where}: must leave filters at zero that repr and pruning drop, got {shown}, which moves weights "
            f"without gradient and momentum; choose another"
        )


class _TrialRun:
    """A network that an optimizer trains by given gradients."""

    def __init__(self, network: nn.Module, make: Callable[[nn.Module], Optimizer]) -> None:
        self._parameters = dict(network.named_parameters())
        self.weights = list(self._parameters.values())
        self._optimizer = make(network)

    def take_steps(self, first: int, end: int, *, is_dropped: bool = False) -> None:
        for step in range(first, end):
            self._optimizer.zero_grad()
            for weight in self.weights:
                if weight.requires_grad:
                    weight.grad = torch.linspace(-1, 2 + step, weight.numel()).sin().reshape(weight.shape)
                    _first_row(weight.grad).mul_(not is_dropped)
            self._optimizer.step()

    def moves_dropped(self) -> bool:
        """Return whether each weight's first row changes after it and its momentum were set to 0."""
        for name, weight in self._parameters.items():
            for tensor in (weight.data, self._optimizer.momentum(name)):
                if tensor is not None:
                    _first_row(tensor).zero_()
        self.take_steps(4, 6, is_dropped=True)
        return any(bool(_first_row(weight).any()) for weight in self.weights)

    def resume(self, other: "_TrialRun") -> None:
        for weight, others in zip(self.weights, other.weights, strict=True):
            weight.data.copy_(others)
        self._optimizer.load_state_dict(
            {name: tensor.clone() for name, tensor in other._optimizer.state_dict().items()}
        )


def _first_row(tensor: Tensor) -> Tensor:
    first: Tensor = torch.atleast_1d(tensor)[:1]
    return first
