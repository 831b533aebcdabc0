"""The weight gradient of convolutions on the few pixels of a network's last layers.

On a CPU, torch's own kernel takes up to 95 times as long there as the products of matrices that it computes
(`benchmarks/small_convolutions.py`).
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["is_faster", "speed_up_weight_gradients_", "weight_gradient"]

FEWEST_WEIGHTS = 2**15
"""With fewer weights, a product for each place of the kernel takes longer than torch's kernel."""

MANY_WEIGHTS = 2**19
"""With this many weights or more, a kernel larger than 1x1 is faster by products up to 4x4 pixels, else up to 2x2."""


def speed_up_weight_gradients_(network: nn.Module) -> None:
    """Make the convolutions of a network compute their weight gradient by products of matrices where this is faster.

    On a CPU this holds for outputs of at most 4x4 pixels if the kernel is 1x1 or has many weights, and of at most 2x2
    pixels otherwise. Outputs and the other gradients are torch's. The weight gradient differs from torch's by rounding
    alone; it has the same shape and dtype, and is channels last in memory.

    Args:
        network: changed in place: the class of its convolutions; tensors, names and `isinstance` stay.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _Conv2d


def is_faster(conv: nn.Conv2d, image_shape: torch.Size) -> bool:
    """Return whether products are faster than torch's kernel and can take its place.

    Args:
        conv: the convolution, on a CPU.
        image_shape: shape of its input, (B, C, H, W).
    """
    num_weights = conv.weight.numel()
    if (
        num_weights < FEWEST_WEIGHTS
        or len(image_shape) != 4
        or conv.groups > 1
        or conv.dilation != (1, 1)
        or conv.padding_mode != "zeros"
        or isinstance(conv.padding, str)
    ):
        return False
    few = 4 if max(conv.kernel_size) == 1 or num_weights >= MANY_WEIGHTS else 2
    sides = zip(image_shape[2:], conv.kernel_size, conv.stride, conv.padding, strict=True)
    return all((size + 2 * padding - kernel) // stride < few for size, kernel, stride, padding in sides)


class _Conv2d(nn.Conv2d):
    """A convolution whose weight gradient is a product of matrices for each place of the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if not (
            torch.is_grad_enabled()
            and weight.requires_grad
            and input.device.type == "cpu"
            and is_faster(self, input.shape)
        ):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        output: Tensor = _Convolution.apply(input, weight, bias, self.stride, self.padding)
        return output


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        return torch.conv2d(input, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad[:3]
        # without the bias, for which torch would compute the weight gradient as well
        input_gradient, _, _ = torch.ops.aten.convolution_backward(
            gradient, input, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, [to_input, False, False]
        )
        return (
            input_gradient,
            weight_gradient(gradient, input, weight.shape[2:], ctx.stride, ctx.padding) if to_weight else None,
            gradient.sum((0, 2, 3)) if to_bias else None,
            None,
            None,
        )


def weight_gradient(
    gradient: Tensor, input: Tensor, kernel_size: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of a convolution's weight, (O, I, KH, KW), channels last in memory.

    The gradient at a place of the kernel is the product of the output's gradient with the pixels that the place sees.
    Where it sees padding, nothing is computed: of a 3x3 kernel on one pixel only the center has a gradient.

    Args:
        gradient: gradient of the output, (B, O, H', W').
        input: (B, I, H, W).
        kernel_size: (KH, KW).
        stride: steps in pixels, along both axes.
        padding: zeros on each side, along both axes.
    """
    num_outputs, num_inputs = gradient.shape[1], input.shape[1]
    rows, columns = (
        [spans(place, input.shape[axis], gradient.shape[axis], step, zeros) for place in range(size)]
        for axis, size, step, zeros in zip((2, 3), kernel_size, stride, padding, strict=True)
    )
    to_BHWO, from_BHWI = gradient.permute(0, 2, 3, 1), input.permute(0, 2, 3, 1)
    nothing = gradient.new_zeros(num_outputs, num_inputs)
    products = [
        to_BHWO[:, to_row, to_column].reshape(-1, num_outputs).t()
        @ from_BHWI[:, from_row, from_column].reshape(-1, num_inputs)
        if to_row.start < to_row.stop and to_column.start < to_column.stop
        else nothing
        for to_row, from_row in rows
        for to_column, from_column in columns
    ]
    return torch.stack(products, 1).view(num_outputs, *kernel_size, num_inputs).permute(0, 3, 1, 2)


def spans(place: int, num_inputs: int, num_outputs: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Return, along one axis, the outputs for which a place of the kernel sees a pixel, and the pixels it sees.

    Example: `spans(0, 4, 4, 1, 1)` is `slice(1, 4), slice(0, 3, 1)`: the first output sees padding there.
    """
    first = max(0, -(-(padding - place) // stride))
    stop = max(first, min(num_outputs, (num_inputs - 1 + padding - place) // stride + 1))
    start = first * stride + place - padding
    return slice(first, stop), slice(start, start + (stop - first) * stride, stride)
