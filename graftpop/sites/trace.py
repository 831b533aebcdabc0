"""A run of a network on blank images, which shows the layers that belong together.

Module names are not used. A normalization belongs to the layer whose output tensor it receives. Attention heads are
read from the shape into which a layer's output, normalized or not, is split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import prod
from operator import mul
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graftpop.models.forward_check import run_forward
from graftpop.models.layers import CONVOLUTIONS, NORMALIZATIONS, TRANSPOSED
from graftpop.sites.units import Heads

__all__ = ["Trace", "trace_network"]

LAYERS: Final = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
FUNCTIONS: Final = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
RESHAPES: Final = (Tensor.view, Tensor.reshape, Tensor.unflatten, torch.reshape, torch.unflatten)
NUM_HEADS: Final = ("num_heads", "n_heads", "heads", "num_attention_heads")
"""Attributes in which modules state the number of their attention heads."""

MOST_PARTS: Final = 3
"""Query, key and value."""


@dataclass
class Trace:
    """Observations of one run, by names of modules.

    Attributes:
        norms_of: modules with one entry per channel that received a layer's output, in the order in which they ran.
        heads_of: the heads that a layer's output was split into.
        output_layers: layers that compute the network's output.
    """

    norms_of: dict[str, list[str]] = field(default_factory=dict)
    heads_of: dict[str, Heads] = field(default_factory=dict)
    output_layers: set[str] = field(default_factory=set)


def trace_network(network: nn.Module, image_shape: tuple[int, ...], where: str) -> Trace:
    """Run a network once on blank images and return the observations.

    Args:
        network: a copy, see `eval_copy`; hooks are added to its modules.
        image_shape: (C, H, W).
        where: name of the network for messages, see `run_forward`.

    Raises:
        ModelError: the network cannot take such images.
    """
    watch = _Watch(network)
    with watch:
        output = run_forward(network, image_shape, where)
    watch.found.output_layers = watch.layers_of_output(output)
    return watch.found


class _Watch(TorchFunctionMode):
    """Watches the outputs of layers: of modules that are called, and of weights that are passed to a function."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.found = Trace()
        self._modules = dict(network.named_modules())
        self._outputs: dict[int, tuple[str, Tensor, int]] = {}  # tensors are kept alive, so that no id is used twice
        self._normalized: dict[int, tuple[str, Tensor, int]] = {}  # the same, of outputs after a normalization
        self._owners: dict[int, str] = {}  # a tied weight belongs to the first of its layers
        for name, module in self._modules.items():
            for parameter in module._parameters.values():
                self._owners.setdefault(id(parameter), name)
            if isinstance(module, LAYERS):
                owner = self._owners[id(module.weight)] if "weight" in module._parameters else name
                module.register_forward_hook(lambda _, __, output, n=owner: self._leaves(n, output))
            elif _num_entries(module) is not None:
                module.register_forward_pre_hook(lambda _, inputs, n=name: self._enters(n, *inputs))
                module.register_forward_hook(lambda _, inputs, output: self._passes(output, *inputs))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in FUNCTIONS:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if (owner := self._owners.get(id(weight))) is not None:
                self._leaves(owner, output)
        elif func in RESHAPES and args[0].dim() > 1:
            self._reshapes(args[0], output)
        return output

    def _leaves(self, layer: str, output: Tensor) -> None:
        root = _root(output)
        self._outputs[id(root)] = layer, root, root._version

    def _enters(self, norm: str, *inputs: object) -> None:
        layer = _layer_of(inputs[0], self._outputs) if inputs else None
        if layer is not None and _num_entries(self._modules[norm]) in (0, _num_channels(self._modules[layer])):
            self.found.norms_of.setdefault(layer, []).append(norm)

    def _passes(self, output: object, *inputs: object) -> None:
        layer = _layer_of(inputs[0], self._outputs) if inputs else None
        if layer is not None and isinstance(output, Tensor):
            root = _root(output)
            self._normalized[id(root)] = layer, root, root._version

    def _reshapes(self, before: Tensor, after: Tensor) -> None:
        """Note the heads of a layer if its output is split into them."""
        layer = _layer_of(before, self._outputs) or _layer_of(before, self._normalized)
        if layer is None or layer in self.found.heads_of or not (num_heads := self._num_heads(layer)):
            return
        channels = _num_channels(self._modules[layer])
        for num_chunks in range(1, MOST_PARTS + 1):  # it may have been cut into query, key and value before
            for axis in (1, before.dim() - 1):
                if channels == before.shape[axis] * num_chunks:
                    num_parts = _parts_of_split(before.shape, axis, after.shape, num_heads)
                    if num_parts:
                        self.found.heads_of[layer] = Heads(num_parts * num_chunks, num_heads)
                        return

    def _num_heads(self, layer: str) -> int:
        """Return the number of heads that the nearest module around a layer states; 0 if there is none."""
        while layer:
            layer = layer.rpartition(".")[0]
            found = (getattr(self._modules[layer], key, None) for key in NUM_HEADS)
            if number := next((number for number in found if isinstance(number, int)), 0):
                return number
        return 0

    def layers_of_output(self, output: object) -> set[str]:
        """Return the layers whose output is the network's, or has its shape; the last to run if there is none."""
        if not isinstance(output, Tensor) or not self._outputs:
            return set()
        same = {
            layer
            for layer, tensor, _ in self._outputs.values()
            if tensor is _root(output) or tensor.shape == output.shape
        }
        return same or {next(reversed(self._outputs.values()))[0]}


def _layer_of(tensor: object, outputs: Mapping[int, tuple[str, Tensor, int]]) -> str | None:
    """Return the layer whose output a tensor is, or shows in another shape; None if its values were changed."""
    if not isinstance(tensor, Tensor):
        return None
    layer, _, version = outputs.get(id(_root(tensor)), (None, None, 0))
    return layer if tensor._version == version else None


def _parts_of_split(before: Sequence[int], axis: int, after: Sequence[int], num_heads: int) -> int:
    """Return P if a reshape splits an axis into P parts of so many heads; 0 if it does not.

    The heads may share an axis with the batch. A single head shows only as an axis of its own.
    """
    first, channels = prod(before[:axis]), before[axis]
    edges = {1, *accumulate(after, mul)}  # products of the leading lengths: a split shows, whatever its other axes are
    for num_parts in range(MOST_PARTS, 0, -1):
        num_blocks = num_parts * num_heads
        if num_blocks == 1:
            return int(len(after) > len(before) and (1, channels) in pairwise(after))
        cuts = {first * num_blocks, first * channels} | ({first * num_parts} if num_parts > 1 else set())
        if channels % num_blocks == 0 and channels > num_blocks and cuts <= edges:
            return num_parts
    return 0


def _root(tensor: Tensor) -> Tensor:
    """Return the tensor whose memory a view shows: a permuted output is still the layer's output."""
    return tensor if tensor._base is None else tensor._base


def _num_channels(layer: nn.Module) -> int:
    """Return the number of output channels of a layer; 0 for other modules."""
    return int(getattr(layer, "out_channels", getattr(layer, "out_features", 0)))


def _num_entries(module: nn.Module) -> int | None:
    """Return the number of entries of a module that treats each channel by itself, 0 if it has no parameter.

    It is None for a module that is neither a normalization nor has only vectors of one length as its parameters.
    """
    lengths = {parameter.numel() for parameter in module.parameters()}
    are_vectors = all(parameter.numel() == max(parameter.shape, default=1) for parameter in module.parameters())
    if isinstance(module, NORMALIZATIONS):
        return max(lengths, default=0)
    return lengths.pop() if len(lengths) == 1 and are_vectors else None
