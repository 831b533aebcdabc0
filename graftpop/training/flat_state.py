"""All floating-point state of a network in one contiguous buffer.

Parameters and buffers become views of it, so that publishing a peer's weights is one copy and grafting is one
operation. The network, its optimizer and its `state_dict` work as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftpop.models.module_check import distinct_state

__all__ = ["Entry", "FlatState"]


@dataclass(frozen=True)
class Entry:
    """Position of one tensor in the buffer: its name, first element and number of elements."""

    name: str
    offset: int
    numel: int


class FlatState:
    """A network's floating-point parameters and buffers as views of one float32 buffer, in `state_dict` order.

    Four-dimensional tensors are stored channels-last, the fastest layout for convolutions. Equal architectures have
    equal layouts. A tied weight is stored once.

    Args:
        network: the network whose tensors become views.

    Attributes:
        buffer: (N,) float32 on the network's device.
        entries: position of each tensor in the buffer.
        integers: the integer buffers (batches seen by a BatchNorm), by name; they stay outside the buffer.
    """

    def __init__(self, network: nn.Module) -> None:
        tensors = dict(distinct_state(network))
        floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        self.integers = {name: tensor for name, tensor in tensors.items() if name not in floating}
        device = next(iter(floating.values())).device
        self.buffer = torch.empty(sum(tensor.numel() for tensor in floating.values()), device=device)
        self.entries: list[Entry] = []
        self._tensors = floating
        offset = 0
        for name, tensor in floating.items():
            view = _shaped(self.buffer[offset : offset + tensor.numel()], tensor.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            self.entries.append(Entry(name, offset, tensor.numel()))
            offset += tensor.numel()

    def __getitem__(self, name: str) -> Tensor:
        """Return the view of one tensor, detached."""
        return self._tensors[name].detach()

    def get(self, name: str) -> Tensor | None:
        """Return the view of one tensor, detached, or None if no floating-point tensor has that name."""
        return self[name] if name in self._tensors else None

    def rows_of(self, buffer: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Return some tensors of a buffer of this layout as matrices (O, rest), one row per filter.

        A row has its values in memory order, so that reading it reads the buffer from front to back.

        Args:
            buffer: (N,), this network's buffer or the weights of a snapshot.
            names: names of the tensors.
        """
        entries = {entry.name: entry for entry in self.entries}
        return [
            buffer.narrow(0, entries[name].offset, entries[name].numel).view(len(self._tensors[name]), -1)
            for name in names
        ]


def _shaped(span: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 4:
        num_out, num_in, height, width = shape
        return span.view(num_out, height, width, num_in).permute(0, 3, 1, 2)
    return span.view(shape)
