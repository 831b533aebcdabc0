"""A stand-in for a CUDA card: tensors with values, in the CPU's memory, whose device is `cuda`.

Torch's fake tensors have devices without values, so code that reads a value cannot run on them. Here it can, and its
results must equal the CPU's. As on a card, tensors of two devices in one call raise an error, and `numpy()` too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

__all__ = ["CUDA", "StandInCard"]

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

attributes: Any = Tensor  # whose descriptors are untyped
MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda)
GETTERS: Mapping[Any, Callable[[bool], object]] = {
    attributes.device.__get__: lambda is_held: CUDA if is_held else CPU,
    attributes.is_cuda.__get__: lambda is_held: is_held,
    attributes.is_cpu.__get__: lambda is_held: not is_held,
}
NUMPY = (Tensor.numpy, Tensor.__array__)
FOLLOWS_FIRST = (
    Tensor.copy_,
    attributes.data.__set__,
    Tensor.view_as,
    Tensor.expand_as,
    Tensor.reshape_as,
    torch._has_compatible_shallow_copy_type,
)
"""Functions that take tensors of two devices on a card, too; the result is on the device of the first."""


READS = (
    "item",
    "tolist",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "nonzero",
    "masked_select",
    "unique",
    "equal",
)
"""Names of functions whose result the host reads: a value, or a shape that depends on values."""

FROM_HOST = (torch.tensor, torch.as_tensor)


class StandInCard(TorchFunctionMode):
    """Makes torch's functions treat `cuda` as a device, inside of the block.

    A tensor is on the card if its memory is, so views, parameters and their `data` need no mark of their own. It is
    stricter than a card: indices and numbers (tensors of no dimension) on the CPU are errors as well.

    Attributes:
        waits: functions for which the host would wait for a card, by name: it reads a value, or copies to the card or
            from it without `non_blocking`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._held: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being used again

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor is on the card."""
        found = self._held.get(tensor.untyped_storage()._cdata)
        return found is not None and not found.expired()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._nn._parse_to:  # reads the arguments of `Module.to`
            return func(*args, **kwargs)
        if func in GETTERS:
            return GETTERS[func](self.holds(args[0]))
        is_held = [self.holds(tensor) for tensor in _tensors((args, kwargs))]
        if any(is_held) and func in NUMPY:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        if func in MOVES:
            return self._moved(func, args, kwargs)
        if any(is_held) and not all(is_held) and func not in FOLLOWS_FIRST:
            raise RuntimeError(
                f"{getattr(func, '__name__', func)}: expected all tensors on one device, got cuda and cpu"
            )
        self._note_waits(func, args, kwargs, is_held)
        args, kwargs, device = _on_cpu(args, kwargs)
        result = func(*args, **kwargs)
        if (is_held[0] if func in FOLLOWS_FIRST else any(is_held)) if device is None else device.type == "cuda":
            for tensor in _tensors(result):
                self._hold(tensor)
        return result

    def _note_waits(self, func: Any, args: Any, kwargs: Any, is_held: list[bool]) -> None:
        name = getattr(func, "__name__", str(func))
        reads = any(is_held) and (name in READS or (name == "__getitem__" and _has_mask(args[1])))
        comes = func in FROM_HOST and not any(is_held) and torch.device(kwargs.get("device") or CPU).type == "cuda"
        copies = func is Tensor.copy_ and is_held[0] != is_held[1] and not kwargs.get("non_blocking")
        if reads or comes or copies:
            self.waits.append(name)

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        tensor, *others = args
        if func is not Tensor.to:
            device: torch.device | None = CPU if func is Tensor.cpu else CUDA
            others = []
        else:
            others, kwargs, device = _on_cpu(
                [torch.device(other) if isinstance(other, str) else other for other in others], kwargs
            )
            if others and isinstance(others[0], Tensor):
                device = CUDA if self.holds(others[0]) else CPU
        to_card = self.holds(tensor) if device is None else device.type == "cuda"
        result: Tensor = tensor.to(*others, **kwargs)
        if to_card != self.holds(tensor) and result.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            result = result.clone()
        if to_card != self.holds(tensor) and not kwargs.get("non_blocking"):
            self.waits.append("to the card" if to_card else "to the host")
        if to_card:
            self._hold(result)
        return result

    def _hold(self, tensor: Tensor) -> None:
        if not self.holds(tensor):
            storage = tensor.untyped_storage()
            self._held[storage._cdata] = StorageWeakRef(storage)


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def _has_mask(index: object) -> bool:
    return any(tensor.dtype == torch.bool for tensor in _tensors((index,)))


def _on_cpu(args: Any, kwargs: Any) -> tuple[Any, Any, torch.device | None]:
    """Return arguments with the CPU in place of their device, and that device."""
    named = kwargs.get("device")
    device = torch.device(named) if named is not None else None
    if device is not None:
        kwargs = {**kwargs, "device": CPU}
    for index, arg in enumerate(args):
        if isinstance(arg, torch.device):
            device, args = arg, [*args[:index], CPU, *args[index + 1 :]]
    return args, kwargs, device
