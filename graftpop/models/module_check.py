"""Checks of a network's modules: whether a peer can train, copy and save them.

A peer moves all tensors of a network into one float32 buffer, copies networks, and saves them by name. Modules that do
not survive this unchanged are refused before anything starts.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from graftpop.errors import ModelError

__all__ = ["check_modules", "distinct_state", "without_ties"]

RECOMPUTED = {
    "torch.nn.utils.weight_norm": "use torch.nn.utils.parametrizations.weight_norm",
    "torch.nn.utils.spectral_norm": "use torch.nn.utils.parametrizations.spectral_norm",
    "torch.nn.utils.prune": "make the pruning permanent by torch.nn.utils.prune.remove",
}
"""Modules of torch whose hooks replace a weight before each forward pass, with the next step of the error.

Such a weight is no parameter, and torch cannot copy it.
"""


def check_modules(network: nn.Module, where: str) -> None:
    """Check that a network consists of modules that a peer can copy, train and save.

    Args:
        network: a new network; not changed.
        where: name of the network for messages, see `run_forward`.

    Raises:
        ModelError: a module or a tensor is of a kind that is not supported.
    """
    for name, module in network.named_modules():
        if (problem := _problem_of(module)) is not None:
            rule, found, step = problem
            raise ModelError(f"{where} must {rule}, got {found} in {_place(name)}; {step}")
    tensors = dict(distinct_state(network))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(
                f"{where} must have only tensors in its state_dict, got {type(tensor).__name__} in '{name}'; keep "
                f"other values out of it"
            )
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
            raise ModelError(
                f"{where} must have its parameters and buffers in float32, got {_dtype(tensor)} in '{name}'; create it "
                f"in float32, and set training.precision: bfloat16 to compute in bfloat16"
            )
    if pair := _overlap(tensors):
        raise ModelError(
            f"{where} must have separate or tied tensors, got '{pair[0]}' and '{pair[1]}', which share memory as two "
            f"tensors; use one nn.Parameter in both places"
        )


def _problem_of(module: nn.Module) -> tuple[str, str, str] | None:
    """Return the broken rule, the found kind and the next step; None if the module is supported."""
    kind = type(module).__name__
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        step = "give it its sizes, or run the network on an image in its constructor"
        return "have all its weights when it is constructed", f"an uninitialized {kind}", step
    if isinstance(module, torch.jit.ScriptModule):
        return "consist of Python modules", f"TorchScript ({kind})", "use the module before torch.jit"
    # the class of a compiled module cannot be imported without torch's compiler
    if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
        return "be a module that is not compiled", f"torch.compile ({kind})", "leave torch.compile out"
    if isinstance(module, nn.SyncBatchNorm):  # peers that exchange logits are in one process group
        return "have BatchNorm of its own batches", kind, "use nn.BatchNorm2d, since no two peers share a batch"
    for hook in module._forward_pre_hooks.values():
        if (origin := type(hook).__module__) in RECOMPUTED:
            return "have its weights as parameters", f"a weight recomputed by {origin}", RECOMPUTED[origin]
    return None


def distinct_state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a network's state once, with its gradient; a tied one comes under the first of its names."""
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def without_ties(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors with separate memory, as safetensors needs them: tied tensors are copied."""
    separate: dict[str, Tensor] = {}
    starts: set[int] = set()
    for name, tensor in tensors.items():
        is_tied = tensor.data_ptr() in starts
        starts.add(tensor.data_ptr())
        separate[name] = tensor.clone() if is_tied else tensor
    return {name: tensor.contiguous() for name, tensor in separate.items()}


def _overlap(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of two tensors that share memory; None if there are none."""
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, name)
        for name, tensor in tensors.items()
        if tensor.numel() and tensor.device.type != "meta"
    )
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            return name, other
    return None


def _place(name: str) -> str:
    return f"its module '{name}'" if name else "the whole network"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
