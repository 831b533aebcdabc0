"""The shape of a network's input, with its dtype."""

import torch

__all__ = ["InputShape"]


class InputShape(tuple[int, ...]):
    """The shape of one input, without the batch: (C, H, W) for images, (T,) for T tokens.

    It equals a plain tuple; a plain tuple stands for an input in float32.

    Args:
        shape: lengths of the axes.
        dtype: torch dtype of the input.

    Attributes:
        dtype: torch dtype of the input.
    """

    dtype: torch.dtype

    def __new__(cls, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> "InputShape":
        """Return a shape with its dtype."""
        made = super().__new__(cls, shape)
        made.dtype = dtype
        return made

    def __getnewargs__(self) -> tuple[tuple[int, ...], torch.dtype]:
        return tuple(self), self.dtype

    @classmethod
    def of(cls, item: torch.Tensor) -> "InputShape":
        """Return the shape of an input of a data set; networks get floating-point numbers in float32."""
        return cls(tuple(item.shape), torch.float32 if item.is_floating_point() else torch.int64)
