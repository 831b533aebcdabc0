"""The optimizer interface of a learner, and an adapter for torch's optimizers."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftpop.errors import CheckpointError

__all__ = ["MakeOptimizer", "Optimizer", "TorchOptimizer", "checked_like"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Returns a new optimizer of a network's parameters; for example, a `partial` of a class of `torch.optim`."""

PREFIX = "optimizer/"
NUMBERS = "optimizer_numbers/"
GROUPS = "optimizer_groups/"
"""Start of the names in a state: tensors of a parameter, Python's numbers of a parameter, values of a group."""

MOMENTUM = ("momentum_buffer", "exp_avg", "momentum")
"""Names under which torch's and timm's optimizers keep the mean of past gradients."""


class Optimizer(Protocol):
    """Changes a network's parameters by their gradients.

    Attributes:
        lr: learning rate of the next step.
    """

    lr: float

    def zero_grad(self) -> None:
        """Set every parameter's gradient to None."""

    def step(self) -> None:
        """Update every parameter that has a gradient."""

    def momentum(self, name: str) -> Tensor | None:
        """Return the mean of a parameter's past gradients, writable in place, or None if there is none."""
        ...

    def reset(self) -> None:
        """Reset the optimizer to its state before the first step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed optimizer needs besides the parameters."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned; other entries, such as the network's, are ignored.

        Raises:
            CheckpointError: the state belongs to other parameters.
        """


class TorchOptimizer:
    """Adapter of a `torch.optim.Optimizer`, torch's or user-defined; `step` is called without a closure.

    Args:
        parameters: the network's parameters by name.
        make: returns the optimizer of these parameters.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: MakeOptimizer) -> None:
        self._parameters = parameters
        self._optimizer = make(parameters.values())
        first = self._optimizer.param_groups[0]["lr"]
        self._shares = [group["lr"] / first for group in self._optimizer.param_groups]
        groups, state = self._optimizer.param_groups, self._optimizer.state
        self._initial_groups = [copy.deepcopy(_counts_in(group)) for group in groups]
        self._initial_state = {parameter: copy.deepcopy(kept) for parameter, kept in state.items()}  # often empty

    @property
    def lr(self) -> float:
        """Learning rate of the first parameter group in the next step; other groups keep their ratio to it."""
        return float(self._optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = lr * share

    def zero_grad(self) -> None:
        """See `Optimizer`."""
        self._optimizer.zero_grad()

    def step(self) -> None:
        """See `Optimizer`."""
        self._optimizer.step()

    def momentum(self, name: str) -> Tensor | None:
        """See `Optimizer`."""
        kept = self._optimizer.state.get(self._parameters[name], {})
        return next((kept[key] for key in MOMENTUM if isinstance(kept.get(key), Tensor)), None)

    def reset(self) -> None:
        """See `Optimizer`."""
        self._optimizer.state.clear()
        for parameter, kept in self._initial_state.items():
            self._optimizer.state[parameter] = copy.deepcopy(kept)
        for group, initial in zip(self._optimizer.param_groups, self._initial_groups, strict=True):
            for key in _counts_in(group).keys() - initial.keys():
                del group[key]
            group.update(copy.deepcopy(initial))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimizer's state of each parameter, and the numbers that it has changed in its groups.

        timm's optimizers count their steps there, or in Python's numbers, which keep their type.
        """
        tensors = {
            f"{NUMBERS if _is_number(value) else PREFIX}{name}/{key}": _as_tensor(value)
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state.get(parameter, {}).items()
            if value is not None
        }
        groups = zip(self._optimizer.param_groups, self._initial_groups, strict=True)
        return tensors | {
            f"{GROUPS}{index}/{'number' if _is_number(value) else 'tensor'}/{key}": _as_tensor(value)
            for index, (group, initial) in enumerate(groups)
            for key, value in _counts_in(group).items()
            if key not in initial or value != initial[key]
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Optimizer`."""
        self.reset()
        # torch's rule: steps are counted on the CPU, unless the optimizer is fused or capturable
        steps_on_device = {
            id(parameter)
            for group in self._optimizer.param_groups
            if group.get("fused") or group.get("capturable")
            for parameter in group["params"]
        }
        for index, group in enumerate(self._optimizer.param_groups):
            for kind, value_of in (("number", _number), ("tensor", Tensor.clone)):
                prefix = f"{GROUPS}{index}/{kind}/"
                values = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
                group.update({name.removeprefix(prefix): value_of(tensor) for name, tensor in values.items()})
        for full_name, tensor in tensors.items():
            if full_name.startswith((PREFIX, NUMBERS)):
                name, _, key = full_name.partition("/")[2].rpartition("/")
                parameter = self._parameters.get(name)
                if parameter is None:
                    raise CheckpointError(f"checkpoint: not one of this network: it has no parameter {name}")
                if full_name.startswith(NUMBERS):
                    self._optimizer.state[parameter][key] = _number(tensor)
                    continue
                if tensor.dim():
                    tensor = checked_like(parameter, tensor, f"{key} of {name}")
                elif key != "step" or id(parameter) in steps_on_device:
                    tensor = tensor.to(parameter.device)
                self._optimizer.state[parameter][key] = tensor.clone()


def _counts_in(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a parameter group that an optimizer may change; a learner sets the learning rate."""
    is_scalar = {key: isinstance(value, Tensor) and not value.dim() for key, value in group.items()}
    return {key: value for key, value in group.items() if key != "lr" and (_is_number(value) or is_scalar[key])}


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _as_tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)  # not rounded to float32


def _number(tensor: Tensor) -> int | float:
    if tensor.numel() != 1:
        raise CheckpointError(f"checkpoint: a number of the optimizer must be one element, got {tuple(tensor.shape)}")
    return tensor.item()


def checked_like(parameter: nn.Parameter, tensor: Tensor, name: str) -> Tensor:
    """Return a copy of a tensor of an optimizer's state, in the memory layout of its parameter.

    Args:
        parameter: the parameter.
        tensor: a tensor of its state, from a checkpoint.
        name: name of the tensor, used in messages.

    Raises:
        CheckpointError: shape or dtype differ from those of the parameter.
    """
    if (tensor.shape, tensor.dtype) != (parameter.shape, parameter.dtype):
        raise CheckpointError(
            f"checkpoint: not one of this network: the {name} must have the shape {tuple(parameter.shape)} in float32, "
            f"got {tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"
        )
    return torch.empty_like(parameter.detach()).copy_(tensor)
