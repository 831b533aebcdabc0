"""All floating-point state of a network in one contiguous buffer.

Parameters and buffers become views of it, so that publishing a peer's weights is one copy and grafting is one
operation. The network, its optimizer and its `state_dict` work as before.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.module_check import distinct_state
from graftpop.sites import Part

__all__ = ["Entry", "FlatState", "Stretch"]


@dataclass(frozen=True)
class Entry:
    """Position of one tensor in the buffer: its name, first element and number of elements; whether it is trained."""

    name: str
    offset: int
    numel: int
    is_parameter: bool = True


class Stretch(NamedTuple):
    """A part of the buffer with `repetitions` times `num_units` equal blocks, a block of each unit in each repetition.

    The units of most tensors lie one after the other, in one repetition. For units on a later axis, such as the filters
    of a transposed convolution, there is one repetition per index of the axes before it.
    """

    offset: int
    numel: int
    repetitions: int
    num_units: int


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
        self._pointers: dict[str, int] = {}
        self._shapes = {name: tensor.shape for name, tensor in tensors.items()}
        offset = 0
        for name, tensor in floating.items():
            view = _shaped(self.buffer[offset : offset + tensor.numel()], tensor.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            self._pointers[name] = view.data_ptr()
            self.entries.append(Entry(name, offset, tensor.numel(), isinstance(tensor, nn.Parameter)))
            offset += tensor.numel()
        self._entries_by_name = {entry.name: entry for entry in self.entries}

    def __getitem__(self, name: str) -> Tensor:
        """Return the view of one tensor, detached."""
        return self._tensors[name].detach()

    def get(self, name: str) -> Tensor | None:
        """Return the view of one tensor, detached, or None if no floating-point tensor has that name."""
        return self[name] if name in self._tensors else None

    def shape_of(self, name: str) -> torch.Size:
        """Return the shape of one tensor."""
        return self._shapes[name]

    def check_shapes(self) -> None:
        """Check that no view was given another shape; torch's fused optimizers would write past its end.

        Raises:
            ModelError: a view has another shape.
        """
        for name, tensor in self._tensors.items():
            if tensor.shape != self._shapes[name]:
                raise _changed(name, self._shapes[name], tensor.shape)

    def check_kept(self, network: nn.Module) -> None:
        """Check that the network still has the same tensors with the same shapes, and its parameters in the buffer.

        Raises:
            ModelError: a tensor differs, for example because a layer was added or replaced.
        """
        tensors = dict(distinct_state(network))
        for name in dict.fromkeys([*self._shapes, *tensors]):
            now, before = tensors.get(name), self._shapes.get(name)
            is_elsewhere = isinstance(now, nn.Parameter) and now.data_ptr() != self._pointers.get(name)
            if now is None or now.shape != before or is_elsewhere:
                raise _changed(name, before, None if now is None else now.shape)

    def whole(self, name: str) -> Part:
        """Return a whole tensor as a part, along its first axis."""
        shape = self._shapes[name]
        return Part(name, 0, 0, shape[0] if shape else 1)

    def stretch(self, part: Part, num_units: int) -> Stretch:
        """Return the place of a part in the buffer; its units lie one after the other, in one or more repetitions.

        Args:
            part: a whole tensor along any axis, or a part of one along its first axis.
            num_units: number of equal blocks of the part.
        """
        entry, shape = self._entries_by_name[part.tensor], self._shapes[part.tensor]
        axes = (0, 2, 3, 1) if len(shape) == 4 else range(len(shape))  # in the order of memory
        sizes = [shape[axis] for axis in axes]
        place = list(axes).index(part.axis) if shape else 0
        inner = math.prod(sizes[place + 1 :])
        repetitions = math.prod(sizes[:place])
        return Stretch(entry.offset + part.start * inner, repetitions * part.length * inner, repetitions, num_units)

    def view_of(self, buffer: Tensor, name: str) -> Tensor:
        """Return the view of one tensor in a buffer of this layout."""
        entry = self._entries_by_name[name]
        return _shaped(buffer.narrow(0, entry.offset, entry.numel), self._shapes[name])

    def memory_of(self, buffer: Tensor, stretch: Stretch) -> Tensor:
        """Return a stretch of a buffer of this layout as (R, U, rest): repetitions, units, values in memory order."""
        return buffer.narrow(0, stretch.offset, stretch.numel).view(stretch.repetitions, stretch.num_units, -1)


def _changed(name: str, before: torch.Size | None, now: torch.Size | None) -> ModelError:
    was, is_now = ("no tensor" if shape is None else f"shape {tuple(shape)}" for shape in (before, now))
    return ModelError(
        f"network: must keep its tensors while it trains, got {was} of '{name}' before and "
        f"{'another tensor' if now == before else is_now} now; create all layers in its __init__, and change weights "
        f"in place"
    )


def _shaped(span: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 4:
        num_out, num_in, height, width = shape
        return span.view(num_out, height, width, num_in).permute(0, 3, 1, 2)
    return span.view(shape)
