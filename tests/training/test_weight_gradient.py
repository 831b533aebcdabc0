"""Weight gradients by products of matrices: equal to torch's but for rounding, and only where they are faster."""

import copy
import warnings
from typing import Any

import pytest
import torch
from network_makers import seeded_network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graftpop.training.flat_state import FlatState
from graftpop.training.weight_gradient import speed_up_weight_gradients_

FAST: list[tuple[dict[str, Any], tuple[int, int]]] = [  # convolution, height and width
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
    ({"in_channels": 256, "out_channels": 256, "kernel_size": 3, "padding": 1}, (4, 4)),
]
PLAIN: list[tuple[dict[str, Any], tuple[int, int]]] = [
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
    speed_up_weight_gradients_(fast)
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
    return "aten.mm.default" in operations.names


@pytest.mark.parametrize(("options", "sides"), FAST)
def test_gradients_are_torchs_but_for_rounding(options: dict[str, Any], sides: tuple[int, int]) -> None:
    plain, fast = both(options)
    images = images_for(plain, sides)
    assert has_products(fast, images)
    found, expected = run(fast, images), run(plain, images)
    exact = run(copy.deepcopy(plain).double(), images.double())
    assert torch.equal(found[0], expected[0])
    for one, torchs, true in zip(found, expected, exact, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (torchs.shape, torchs.dtype, torchs.stride())
        assert torch.allclose(one.double(), true, rtol=1e-5, atol=1e-6 * float(true.abs().max()))


@pytest.mark.parametrize(("options", "sides"), FAST[:4] + FAST[7:8])
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
    plain, fast = both(FAST[1][0])
    images = images_for(plain, FAST[1][1])
    fast(images).sum().backward()
    plain(images).sum().backward()
    assert fast.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.allclose(fast.weight.grad, plain.weight.grad, atol=1e-5)
    fast.weight.requires_grad_(False)
    assert not has_products(fast, images)
    with torch.no_grad():
        assert torch.equal(fast(images), plain(images))


def test_gradients_can_be_differentiated_again() -> None:
    options, sides = FAST[3]
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


def test_gradients_per_image_are_torchs() -> None:
    found = []
    for conv in both(FAST[2][0]):
        images = images_for(conv, FAST[2][1])
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
    speed_up_weight_gradients_(network)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    FlatState(network)
    twin = copy.deepcopy(network)
    with Operations() as operations:
        twin(torch.randn(2, 3, 32, 32)).sum().backward()
    assert operations.names.count("aten.mm.default") > 5 * 9
