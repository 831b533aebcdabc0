"""Convolutions on a CPU: products of matrices on few pixels, and float32 where torch is slow in bfloat16.

Results equal torch's but for rounding. Other convolutions stay as they are.
"""

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from network_makers import seeded_network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graftpop.training import convolutions
from graftpop.training.convolutions import speed_up_convolutions_
from graftpop.training.flat_state import FlatState

Case = tuple[dict[str, Any], tuple[int, int]]  # convolution, height and width of its input
FAST_GRADIENT: list[Case] = [
    ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}, (1, 1)),
    ({"in_channels": 64, "out_channels": 72, "kernel_size": 3, "padding": 1}, (2, 1)),
    ({"in_channels": 64, "out_channels": 72, "kernel_size": 3, "padding": 1, "bias": False}, (2, 2)),
    ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "stride": 2}, (4, 3)),
    ({"in_channels": 64, "out_channels": 64, "kernel_size": 3}, (3, 4)),
    ({"in_channels": 48, "out_channels": 40, "kernel_size": (5, 4), "padding": (2, 1), "stride": (3, 2)}, (5, 4)),
    ({"in_channels": 32, "out_channels": 32, "kernel_size": 7, "padding": 3}, (2, 2)),
    ({"in_channels": 256, "out_channels": 128, "kernel_size": 1}, (4, 4)),
    ({"in_channels": 128, "out_channels": 256, "kernel_size": 1, "stride": 2}, (7, 8)),
    ({"in_channels": 128, "out_channels": 256, "kernel_size": 1, "padding": 1}, (2, 2)),
    ({"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}, (4, 4)),
]
FAST_DEPTHWISE: list[Case] = [
    ({"in_channels": 24, "out_channels": 24, "groups": 24, "kernel_size": 3, "padding": 1}, (1, 1)),
    ({"in_channels": 24, "out_channels": 24, "groups": 24, "kernel_size": 3, "padding": 1}, (2, 1)),
    ({"in_channels": 8, "out_channels": 8, "groups": 8, "kernel_size": 7, "padding": 3, "bias": False}, (2, 2)),
    ({"in_channels": 8, "out_channels": 8, "groups": 8, "kernel_size": (5, 4), "padding": (2, 1)}, (3, 5)),
    ({"in_channels": 8, "out_channels": 8, "groups": 8, "kernel_size": 5, "padding": 2, "stride": (2, 3)}, (8, 7)),
    ({"in_channels": 8, "out_channels": 8, "groups": 8, "kernel_size": 5}, (8, 8)),
]
FAST_OUTPUT: list[Case] = [
    ({"in_channels": 256, "out_channels": 240, "kernel_size": 3, "padding": 1}, (1, 1)),
    ({"in_channels": 256, "out_channels": 240, "kernel_size": 3, "padding": 1}, (2, 1)),
    ({"in_channels": 240, "out_channels": 256, "kernel_size": 3, "padding": 1, "bias": False}, (2, 2)),
    ({"in_channels": 256, "out_channels": 240, "kernel_size": 3, "padding": 1, "stride": 2}, (2, 2)),
    ({"in_channels": 160, "out_channels": 164, "kernel_size": (5, 4), "padding": (2, 2), "stride": (1, 2)}, (2, 2)),
    ({"in_channels": 364, "out_channels": 364, "kernel_size": 2}, (2, 2)),
]
UNSEEN_PIXELS: Case = ({"in_channels": 364, "out_channels": 364, "kernel_size": 2, "padding": 1, "stride": 3}, (2, 2))
"""Torch's own weight gradient in bfloat16 may be NaN there, on a processor with AMX."""

PLAIN: list[Case] = [
    ({"in_channels": 24, "out_channels": 24, "groups": 24, "kernel_size": 3, "padding": 1}, (3, 1)),
    ({"in_channels": 8, "out_channels": 8, "groups": 8, "kernel_size": 5, "padding": 2}, (9, 3)),
    ({"in_channels": 8, "out_channels": 16, "groups": 8, "kernel_size": 3, "padding": 1}, (1, 1)),
    ({"in_channels": 120, "out_channels": 120, "kernel_size": 3, "padding": 1}, (4, 4)),
    ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}, (3, 2)),
    ({"in_channels": 256, "out_channels": 256, "kernel_size": 3, "padding": 1}, (5, 4)),
    ({"in_channels": 256, "out_channels": 128, "kernel_size": 1}, (5, 5)),
    ({"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1}, (2, 2)),
    ({"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1, "groups": 2}, (2, 2)),
    ({"in_channels": 256, "out_channels": 256, "kernel_size": 3, "padding": 2, "dilation": 2}, (1, 1)),
    ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": "same"}, (2, 2)),
    ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, (2, 2)),
]


def both(options: dict[str, Any]) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return a convolution in torch's form and a copy with fast weight gradients, as a peer holds them."""
    torch.manual_seed(0)
    plain = nn.Conv2d(**options)
    fast = copy.deepcopy(plain)
    for conv in (plain, fast):
        FlatState(conv)
    speed_up_convolutions_(fast)
    return plain, fast


def images_for(conv: nn.Conv2d, sides: tuple[int, int]) -> Tensor:
    images = torch.randn(5, conv.in_channels, *sides, generator=torch.Generator().manual_seed(1))
    return images.to(memory_format=torch.channels_last)


def run(conv: nn.Conv2d, images: Tensor) -> list[Tensor]:
    """Return the outputs, and the gradients of images and parameters."""
    images = images.clone().requires_grad_()
    outputs = conv(images)
    gradient = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2)).to(outputs)
    needed = [images, *(parameter for parameter in conv.parameters() if parameter.requires_grad)]
    return [outputs.detach(), *torch.autograd.grad(outputs, needed, gradient)]


class Operations(TorchDispatchMode):
    """Records the names of operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def has_products(conv: nn.Conv2d, images: Tensor) -> bool:
    with Operations() as operations:
        run(conv, images)
    return not {"aten.mm.default", "aten.bmm.default"}.isdisjoint(operations.names)


@pytest.mark.parametrize(("options", "sides"), [*FAST_GRADIENT, *FAST_DEPTHWISE, *FAST_OUTPUT, UNSEEN_PIXELS])
def test_results_are_torchs_but_for_rounding(options: dict[str, Any], sides: tuple[int, int]) -> None:
    plain, fast = both(options)
    images = images_for(plain, sides)
    assert has_products(fast, images)
    found, expected = run(fast, images), run(plain, images)
    exact = run(copy.deepcopy(plain).double(), images.double())
    for one, torchs, true in zip(found, expected, exact, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (torchs.shape, torchs.dtype, torchs.stride())
        assert torch.allclose(one.double(), true, rtol=1e-5, atol=1e-6 * float(true.abs().max()))
    for one, true in zip(run(fast.double(), images.double()), exact, strict=True):
        assert torch.allclose(one, true, rtol=1e-10, atol=1e-12 * float(true.abs().max()))


@given(
    num_images=st.integers(0, 2),
    channels=st.integers(2, 5),
    is_depthwise=st.booleans(),
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    sides=st.sampled_from([(2, 2), (1, 2), (1, 1), (6, 8)]),
    bias=st.booleans(),
)
@settings(max_examples=200)
def test_any_geometry_has_torchs_results(
    num_images: int,
    channels: int,
    is_depthwise: bool,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    sides: tuple[int, int],
    bias: bool,
) -> None:
    assume(all(side + 2 * zeros >= size for side, zeros, size in zip(sides, padding, kernel_size, strict=True)))
    filters, groups = (channels, channels) if is_depthwise else (3, 1)
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, filters, kernel_size, stride, padding, groups=groups, bias=bias).double()
    images = torch.randn(num_images, channels, *sides, dtype=torch.double)
    fast = copy.deepcopy(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "FEWEST_WEIGHTS", 1)
        patch.setattr(convolutions, "MOST_WEIGHTS", 1)
        speed_up_convolutions_(fast)
        found = run(fast, images)
    for one, other in zip(found, run(plain, images), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("options", "sides"), [*FAST_GRADIENT, *FAST_DEPTHWISE])
def test_output_is_torchs_where_only_the_weight_gradient_is_slow(
    options: dict[str, Any], sides: tuple[int, int]
) -> None:
    plain, fast = both(options)
    images = images_for(plain, sides)
    assert torch.equal(run(fast, images)[0], run(plain, images)[0])


@pytest.mark.parametrize(
    ("options", "sides"), [*FAST_GRADIENT[:4], FAST_GRADIENT[7], *FAST_DEPTHWISE[:2], *FAST_OUTPUT]
)
def test_bfloat16_is_as_exact_as_torchs(options: dict[str, Any], sides: tuple[int, int]) -> None:
    plain, fast = both(options)
    images = images_for(plain, sides)
    exact = run(copy.deepcopy(plain).double(), images.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = run(fast, images), run(plain, images)
    for one, torchs, true in zip(found, expected, exact, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (torchs.shape, torchs.dtype, torchs.stride())
        errors = [float((values.double() - true).norm() / true.norm()) for values in (one, torchs)]
        assert errors[0] <= 1.1 * errors[1] + 1e-6


@pytest.mark.parametrize(("options", "sides"), PLAIN)
def test_other_convolutions_stay_as_they_are(options: dict[str, Any], sides: tuple[int, int]) -> None:
    plain, fast = both(options)
    images = images_for(plain, sides)
    assert not has_products(fast, images)
    assert all(torch.equal(one, other) for one, other in zip(run(fast, images), run(plain, images), strict=True))


def test_only_needed_gradients_are_computed() -> None:
    plain, fast = both(FAST_GRADIENT[1][0])
    images = images_for(plain, FAST_GRADIENT[1][1])
    fast(images).sum().backward()
    plain(images).sum().backward()
    assert fast.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.allclose(fast.weight.grad, plain.weight.grad, atol=1e-5)
    fast.weight.requires_grad_(False)
    assert not has_products(fast, images)
    with torch.no_grad():
        assert torch.equal(fast(images), plain(images))


@pytest.mark.parametrize(("options", "sides"), [FAST_GRADIENT[3], FAST_DEPTHWISE[3], FAST_OUTPUT[4]])
def test_gradients_can_be_differentiated_again(options: dict[str, Any], sides: tuple[int, int]) -> None:
    found = []
    for conv in both(options):
        images = images_for(conv, sides).requires_grad_()
        parameters = list(conv.parameters())
        gradients = torch.autograd.grad(conv(images).pow(2).sum(), [images, *parameters], create_graph=True)
        found.append(
            torch.autograd.grad(torch.cat([one.flatten() for one in gradients]).pow(2).sum(), [images, *parameters])
        )
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize(("options", "sides"), [FAST_GRADIENT[2], FAST_DEPTHWISE[3], FAST_OUTPUT[4]])
def test_gradients_per_image_are_torchs(options: dict[str, Any], sides: tuple[int, int]) -> None:
    found = []
    for conv in both(options):
        images = images_for(conv, sides)
        weights = {name: weight.detach() for name, weight in conv.named_parameters()}

        def loss(weights: dict[str, Tensor], image: Tensor, conv: nn.Conv2d = conv) -> Tensor:
            return torch.func.functional_call(conv, weights, (image[None],)).pow(2).sum()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that it maps some operations one by one
            found.append(torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)["weight"])
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_network_keeps_its_parameters_and_can_be_copied() -> None:
    network = seeded_network("torchvision:resnet18")
    before = dict(network.named_parameters())
    speed_up_convolutions_(network)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    FlatState(network)
    twin = copy.deepcopy(network)
    with Operations() as operations:
        twin(torch.randn(2, 3, 32, 32)).sum().backward()
    assert operations.names.count("aten.mm.default") > 5 * 9


@pytest.mark.parametrize(
    ("options", "is_slow"),
    [
        ({"kernel_size": 3, "stride": 2, "groups": 8}, True),
        ({"kernel_size": 5, "groups": 8}, True),
        ({"kernel_size": (3, 5), "groups": 8}, True),
        ({"kernel_size": 3, "groups": 8}, False),
        ({"kernel_size": 3, "stride": 2, "groups": 2}, False),
        ({"kernel_size": 3, "stride": 2}, False),
    ],
)
def test_slow_bfloat16_depthwise_convolutions_use_float32(options: dict[str, Any], is_slow: bool) -> None:
    torch.manual_seed(0)
    conv, images = nn.Conv2d(8, 8, **options), torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        exact = conv(images)
        speed_up_convolutions_(nn.Sequential(conv))
        with torch.autocast("cpu", torch.bfloat16):
            from_bfloat16 = conv(images.bfloat16())
            from_float32 = conv(images)
        in_double = copy.deepcopy(conv).double()(images.double())  # as the removal of filters compares outputs
    assert in_double.dtype == torch.float64
    assert torch.allclose(in_double.float(), exact, atol=1e-5)
    assert from_bfloat16.dtype == from_float32.dtype == (torch.float32 if is_slow else torch.bfloat16)
    assert torch.equal(from_float32, exact) == is_slow
    assert torch.allclose(from_bfloat16.float(), exact, atol=0.05)


def test_wide_depthwise_convolution_on_few_pixels_uses_float32_and_products() -> None:
    plain, fast = both(FAST_DEPTHWISE[4][0])
    images = images_for(plain, FAST_DEPTHWISE[4][1])
    with torch.autocast("cpu", torch.bfloat16):
        output = fast(images)
    with Operations() as operations:
        output.square().sum().backward()
    plain(images).square().sum().backward()
    assert "aten.bmm.default" in operations.names
    assert fast.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.allclose(fast.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-5)
