"""Comparison of weights with a network: the same network, the same except for its output layer, or another one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["Comparison", "another_network", "compare_weights"]


class Comparison(NamedTuple):
    """Comparison of weights with a network.

    Attributes:
        differences: differences in names and shapes, one phrase each; empty if only the output layer differs.
        head: entries of the output layer, if it alone differs.
        num_classes: number of its classes in the weights; 0: they have none.
    """

    differences: Sequence[str]
    head: Sequence[str] = ()
    num_classes: int = 0


def compare_weights(
    network: nn.Module, weights: Mapping[str, Tensor], num_classes: int, *, has_head: bool = True
) -> Comparison:
    """Return how weights differ from a network.

    Args:
        network: the network.
        weights: tensors by name.
        num_classes: number of classes of the network.
        has_head: whether the weights should include an output layer.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    resized = {name: shape for name, shape in own.items() if found.get(name, shape) != shape}
    absent = [
        name for name in own if name not in found and not name.endswith("num_batches_tracked")
    ]  # absent before torch 0.4.1
    foreign = [name for name in found if name not in own]
    first_sizes = {(shape[:1], found[name][:1]) for name, shape in resized.items()}
    is_resized_only = not absent and not foreign and all(own[name][1:] == found[name][1:] for name in resized)
    if is_resized_only and len(first_sizes) == 1:
        ((own_size, found_size),) = first_sizes
        if own_size == (num_classes,) and found_size:
            return Comparison([], [*resized], found_size[0])
    if not (has_head or resized or foreign) and all(own[name][:1] == (num_classes,) for name in absent):
        return Comparison([], absent)
    return Comparison(
        [
            *(f"{name} has shape {found[name]}, not {shape}" for name, shape in resized.items()),
            *(f"{name} is missing" for name in absent),
            *(f"{name} is unexpected" for name in foreign),
        ]
    )


def another_network(name: str, differences: Sequence[str]) -> str:
    """Return the part of a message that says how weights differ from the network of a name."""
    more = f", and {len(differences) - 1} more names differ" if len(differences) > 1 else ""
    return f"holds another network than '{name}': {differences[0]}{more}"
