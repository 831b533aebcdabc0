"""Number formats: slow convolutions leave bfloat16 and are otherwise unchanged."""

import copy
from typing import Any

import pytest
import torch
from network_makers import seeded_network
from torch import nn

from graftpop.training.precision import avoid_slow_kernels_


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
        avoid_slow_kernels_(nn.Sequential(conv))
        with torch.autocast("cpu", torch.bfloat16):
            from_bfloat16 = conv(images.bfloat16())
            from_float32 = conv(images)
        in_double = copy.deepcopy(conv).double()(images.double())  # as the removal of filters compares outputs
    assert in_double.dtype == torch.float64
    assert torch.allclose(in_double.float(), exact, atol=1e-5)
    assert from_bfloat16.dtype == from_float32.dtype == (torch.float32 if is_slow else torch.bfloat16)
    assert torch.equal(from_float32, exact) == is_slow
    assert torch.allclose(from_bfloat16.float(), exact, atol=0.05)


def test_network_keeps_its_parameters_and_can_be_copied() -> None:
    network = seeded_network("mobilenetv2")
    before = {name: parameter for name, parameter in network.named_parameters()}
    state = copy.deepcopy(network.state_dict())
    avoid_slow_kernels_(network)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    twin = copy.deepcopy(network)
    assert all(torch.equal(tensor, state[name]) for name, tensor in twin.state_dict().items())
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    replaced = [module for module in convs if type(module) is not nn.Conv2d]
    assert [module.stride for module in replaced] == [(2, 2)] * 3
