"""Size of a network: floating-point operations per image, and parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from graftpop.models.forward_check import blank_images, eval_copy

__all__ = ["count_flops", "count_parameters", "flops_by_weight"]


def count_flops(network: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Return the floating-point operations of the forward pass of one image.

    Convolutions and matrix products count, each multiply-add as 2. Most pruning papers count it as 1: their "FLOPs" are
    half of these. BatchNorm, activations, sums and pooling do not count, as in those papers.

    Args:
        network: maps images (B, C, H, W) to logits; not changed.
        image_shape: (C, H, W).
    """
    network_copy = eval_copy(network)
    counter = _FlopCounter()  # type: ignore[no-untyped-call]  # torch is untyped there
    with torch.no_grad(), _attention_in_parts(), counter:
        network_copy(blank_images(network_copy, 1, image_shape))
    return counter.flops


def flops_by_weight(network: nn.Module, image_shape: tuple[int, ...]) -> dict[str, int]:
    """Return the floating-point operations of each layer for one image, by the name of its weight.

    Layers are modules with a parameter `weight` and without modules inside. Their operations are counted as by
    `count_flops`; products of two activations belong to none of them.

    Args:
        network: maps images (B, C, H, W) to logits; not changed.
        image_shape: (C, H, W).
    """
    network_copy = eval_copy(network)
    counter = _FlopCounter()  # type: ignore[no-untyped-call]
    flops: dict[str, int] = {}

    def starts(name: str) -> None:
        flops[name] = flops.get(name, 0) - counter.flops

    def ends(name: str) -> None:
        flops[name] += counter.flops

    for name, module in network_copy.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not list(module.children()):
            weight = f"{name}.weight"
            module.register_forward_pre_hook(lambda _, __, weight=weight: starts(weight))
            module.register_forward_hook(lambda _, __, ___, weight=weight: ends(weight))
    with torch.no_grad(), _attention_in_parts(), counter:
        network_copy(blank_images(network_copy, 1, image_shape))
    return {name: count for name, count in flops.items() if count}


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Keep torch from running its attention in evaluation mode as one operation, for which it has no formula."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _CountsFlops:
    """Adds up the operations of every call by torch's formulas.

    Torch wraps a `__torch_dispatch__` defined in a subclass of TorchDispatchMode, and the wrapper imports torch's
    compiler, which takes a second. `torch.utils.flop_counter.FlopCounterMode` does the same. An inherited method is not
    wrapped.
    """

    flops: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry  # imports triton, which takes a quarter of a second

        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class _FlopCounter(_CountsFlops, TorchDispatchMode):
    pass


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters; tied weights count once, running statistics do not count."""
    return sum(parameter.numel() for parameter in network.parameters())
