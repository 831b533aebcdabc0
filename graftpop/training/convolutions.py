"""Convolutions of a peer on a CPU: other ways where torch's kernels are slow.

Torch's kernels for few pixels take up to 95 times as long as the products of matrices that they compute
(`benchmarks/small_convolutions.py`), those of some depthwise convolutions in bfloat16 up to 70 times as long as in
float32 (`benchmarks/depthwise.py`).
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "depthwise_weight_gradient",
    "fast_products",
    "input_gradient",
    "output_of_products",
    "speed_up_convolutions_",
    "weight_gradient",
]

FEWEST_WEIGHTS = 2**15
"""With fewer weights, a product for each place of a dense kernel takes longer than torch's kernel."""

MANY_WEIGHTS = 2**17
"""With this many weights or more, a wide dense kernel has faster weight gradients up to 4x4 pixels, else up to 2x2."""

MOST_WEIGHTS = 2**19
"""With this many weights or more, torch reads all of a dense kernel once per image, which products avoid."""

FAST_DEPTHWISE = 3
"""Largest kernel size of depthwise convolutions with stride 1 that are fast in bfloat16."""


class Products(NamedTuple):
    """Which parts of a convolution are faster as products of matrices than by torch's kernel."""

    weight_gradient: bool
    output_and_input_gradient: bool


def speed_up_convolutions_(network: nn.Module) -> None:
    """Make the convolutions of a network avoid torch's slow CPU kernels while they train.

    - On few pixels, weight gradients, and outputs and input gradients of kernels with many weights, are products of
      matrices (`fast_products`). They differ from torch's by rounding alone.
    - Under bfloat16 autocast, depthwise convolutions with a stride above 1 or a kernel wider than 3 compute in float32:
      torch has no fast bfloat16 kernel for their backward pass.

    Shapes and dtypes of gradients stay torch's; weight gradients are channels last in memory.

    Args:
        network: changed in place: the class of its convolutions; tensors, names and `isinstance` stay.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _Conv2d


def fast_products(conv: nn.Conv2d, image_shape: torch.Size) -> Products:
    """Return which parts of a convolution products of matrices compute faster than torch's kernel.

    - Weight gradient of a dense convolution: for outputs of at most 4x4 pixels if the kernel is 1x1 or has many
      weights, and of at most 2x2 pixels otherwise.
    - Output and input gradient of a dense convolution: for images and outputs of at most 2x2 pixels, if a kernel wider
      than 1 has at least 2**19 weights.
    - Weight gradient of a depthwise convolution: for images and outputs of at most 8x8 pixels if the kernel is wider
      than 3, and of at most 2x2 pixels otherwise.

    Args:
        conv: the convolution, on a CPU.
        image_shape: shape of its input, (B, C, H, W).
    """
    nothing = Products(False, False)
    if (
        len(image_shape) != 4
        or conv.dilation != (1, 1)
        or conv.padding_mode != "zeros"
        or isinstance(conv.padding, str)
    ):
        return nothing
    sides = image_shape[2:]
    widest = max(conv.kernel_size)
    along = zip(sides, conv.kernel_size, conv.stride, conv.padding, strict=True)
    outputs = max((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in along)
    if conv.groups == conv.in_channels == conv.out_channels > 1:
        return Products(max(*sides, outputs) <= (8 if widest > FAST_DEPTHWISE else 2), False)
    num_weights = conv.weight.numel()
    if conv.groups > 1 or num_weights < FEWEST_WEIGHTS:
        return nothing
    return Products(
        outputs <= (4 if widest == 1 or num_weights >= MANY_WEIGHTS else 2),
        max(*sides, outputs) <= 2 and widest > 1 and num_weights >= MOST_WEIGHTS,
    )


class _Conv2d(nn.Conv2d):
    """A convolution that avoids torch's slow CPU kernels."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input)
        if torch.is_autocast_enabled("cpu") and _is_slow_in_bfloat16(self):
            with torch.autocast("cpu", enabled=False):
                return self._on_cpu(input.float())
        return self._on_cpu(input)

    def _on_cpu(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return super().forward(input)
        products = fast_products(self, input.shape)
        if not any(products):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        output: Tensor = _Convolution.apply(input, weight, bias, self.stride, self.padding, self.groups, products)
        return output


def _is_slow_in_bfloat16(conv: nn.Conv2d) -> bool:
    is_depthwise = conv.groups == conv.in_channels > 1
    return is_depthwise and (max(conv.stride) > 1 or max(conv.kernel_size) > FAST_DEPTHWISE)


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        products: Products,
    ) -> Tensor:
        if not products.output_and_input_gradient:
            return torch.conv2d(input, weight, bias, stride, padding, groups=groups)
        return output_of_products(input, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, ctx.stride, ctx.padding, ctx.groups, ctx.products = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        stride, padding, groups = ctx.stride, ctx.padding, ctx.groups
        to_input, to_weight, to_bias = ctx.needs_input_grad[:3]
        of_input = of_weight = None
        if to_input and ctx.products.output_and_input_gradient:
            of_input = input_gradient(gradient, weight, input.shape, stride, padding)
        elif to_input:  # without the bias, for which torch would compute the weight gradient as well
            of_input, _, _ = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, stride, padding, (1, 1), False, (0, 0), groups, [True, False, False]
            )
        if to_weight:
            weight_gradient_of = weight_gradient if groups == 1 else depthwise_weight_gradient
            of_weight = weight_gradient_of(gradient, input, weight.shape[2:], stride, padding)
        return of_input, of_weight, gradient.sum((0, 2, 3)) if to_bias else None, None, None, None, None


def output_of_products(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return a convolution's output, (B, O, H', W'), channels last in memory.

    Each pixel of the output is the product of the pixels that it sees, of all channels, with the weights for them.

    Args:
        input: (B, I, H, W).
        weight: (O, I, KH, KW).
        bias: (O).
        stride: steps in pixels, along both axes.
        padding: zeros on each side, along both axes.
    """
    num_images, num_filters = input.shape[0], weight.shape[0]
    product = torch.mm if bias is None else partial(torch.addmm, bias)  # adds the bias before rounding
    from_BHWI, to_OHWI = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    rows, columns = (
        [window(place, size, kernel, step, zeros) for place in range((size + 2 * zeros - kernel) // step + 1)]
        for size, kernel, step, zeros in zip(input.shape[2:], weight.shape[2:], stride, padding, strict=True)
    )
    products = [
        product(
            from_BHWI[:, seen_rows, seen_columns].flatten(1), to_OHWI[:, kernel_rows, kernel_columns].flatten(1).t()
        )
        for seen_rows, kernel_rows in rows
        for seen_columns, kernel_columns in columns
    ]
    return torch.stack(products, 1).view(num_images, len(rows), len(columns), num_filters).permute(0, 3, 1, 2)


def window(place: int, num_inputs: int, kernel_size: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Return, along one axis, the pixels that an output sees, and the places of the kernel that it sees them with.

    Example: `window(0, 2, 3, 1, 1)` is `slice(0, 2), slice(1, 3)`: the first place of the kernel sees padding.
    """
    first = place * stride - padding
    start, stop = max(0, first), max(0, first, min(num_inputs, first + kernel_size))
    return slice(start, stop), slice(start - first, stop - first)


def input_gradient(
    gradient: Tensor, weight: Tensor, image_shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of a convolution's input, (B, I, H, W), channels last in memory.

    The gradient of each pixel is the product of the gradients of the outputs that see it, of all filters, with the
    weights they see it with.

    Args:
        gradient: gradient of the output, (B, O, H', W').
        weight: (O, I, KH, KW).
        image_shape: (B, I, H, W).
        stride: steps in pixels, along both axes.
        padding: zeros on each side, along both axes.
    """
    num_images, num_inputs, *sides = image_shape
    to_BHWO, from_HWOI = gradient.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1)
    rows, columns = (
        [observers(pixel, num_outputs, kernel, step, zeros) for pixel in range(size)]
        for size, num_outputs, kernel, step, zeros in zip(
            sides, gradient.shape[2:], weight.shape[2:], stride, padding, strict=True
        )
    )
    products = [
        to_BHWO[:, output_rows, output_columns].flatten(1)
        @ from_HWOI[kernel_rows[:, None], kernel_columns].flatten(0, 2)
        for output_rows, kernel_rows in rows
        for output_columns, kernel_columns in columns
    ]
    return torch.stack(products, 1).view(num_images, *sides, num_inputs).permute(0, 3, 1, 2)


def observers(pixel: int, num_outputs: int, kernel_size: int, stride: int, padding: int) -> tuple[slice, Tensor]:
    """Return, along one axis, the outputs that see a pixel, and the place of the kernel that each sees it with.

    Example: `observers(0, 2, 3, 1, 1)` is `slice(0, 2), tensor([1, 0])`.
    """
    place = pixel + padding
    start = max(0, -(-(place - kernel_size + 1) // stride))
    stop = max(start, min(num_outputs, place // stride + 1))
    return slice(start, stop), place - stride * torch.arange(start, stop)


def weight_gradient(
    gradient: Tensor, input: Tensor, kernel_size: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of a dense convolution's weight, (O, I, KH, KW), channels last in memory.

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


def depthwise_weight_gradient(
    gradient: Tensor, input: Tensor, kernel_size: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of a depthwise convolution's weight, (C, 1, KH, KW), channels last in memory.

    A product of matrices per channel has the sum over the images for each pair of an output and a pixel, (H' W', H W);
    the gradient at a place of the kernel is the sum over the pairs that it connects.

    Args:
        gradient: gradient of the output, (B, C, H', W').
        input: (B, C, H, W).
        kernel_size: (KH, KW).
        stride: steps in pixels, along both axes.
        padding: zeros on each side, along both axes.
    """
    _, num_channels, *outputs = gradient.shape
    pairs = torch.bmm(gradient.permute(1, 2, 3, 0).flatten(1, 2), input.permute(1, 0, 2, 3).flatten(2))
    rows, columns = (
        connections(num_outputs, num_inputs, size, step, zeros)
        for num_outputs, num_inputs, size, step, zeros in zip(
            outputs, input.shape[2:], kernel_size, stride, padding, strict=True
        )
    )
    connected = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]  # H', W', H, W, KH, KW
    exact = torch.promote_types(pairs.dtype, torch.float32)
    sums = pairs.to(exact).flatten(1) @ connected.flatten(4).flatten(0, 3).to(exact)
    return sums.to(gradient.dtype).view(num_channels, *kernel_size, 1).permute(0, 3, 1, 2)


def connections(num_outputs: int, num_inputs: int, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Return, along one axis, whether a place of the kernel connects an output with a pixel, (H', H, KH)."""
    places = torch.arange(num_inputs)[None, :] + padding - stride * torch.arange(num_outputs)[:, None]
    return places[:, :, None] == torch.arange(kernel_size)
