"""Features of a network: the input of the Linear layer that computes its output."""

from functools import partial

import torch
from torch import Tensor, nn

from graftpop.errors import ModelError

__all__ = ["classifier_of", "without_classifier_"]


def classifier_of(network: nn.Module, inputs: Tensor) -> tuple[str, nn.Linear]:
    """Return the Linear layer that computes a network's output, and its name; training state does not change.

    Raises:
        ModelError: there is none.
    """
    outputs: dict[int, tuple[str, nn.Linear, Tensor, Tensor]] = {}

    def note(name: str, layer: nn.Linear, _: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        outputs[id(output)] = name, layer, given[0], output

    hooks = [
        layer.register_forward_hook(partial(note, name, layer))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            output = network.eval()(inputs[:2])
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    name, layer, features, _ = outputs.get(id(output), ("", None, None, None))
    if layer is None or features is None or features.dim() != 2:
        raise ModelError(
            f"model.name: recognition needs a network whose output is that of a Linear layer with features (B, F), got "
            f"{type(network).__name__} without one; choose another network"
        )
    return name, layer


def without_classifier_(network: nn.Module, name: str) -> nn.Module:
    """Replace the Linear layer that computes a network's output by the identity, so that it returns features (B, F).

    Args:
        network: the network, changed in place.
        name: name of the layer, see `classifier_of`.

    Raises:
        ValueError: the network has no such layer.
    """
    if not isinstance(dict(network.named_modules()).get(name), nn.Linear):
        raise ValueError(f"classifier must be the name of a Linear layer, got '{name}'")
    network.set_submodule(name, nn.Identity())
    return network
