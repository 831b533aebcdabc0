"""Number formats: which convolutions leave bfloat16, and that they are what they were otherwise."""

import copy

import pytest
import torch
from network_makers import seeded_network
from torch import nn

from graftpop.training.precision import avoid_slow_kernels_


@pytest.mark.parametrize(
    ("options", "leaves"),
    [
        ({"kernel_size": 3, "stride": 2, "groups": 8}, True),
        ({"kernel_size": 5, "groups": 8}, True),
        ({"kernel_size": (3, 5), "groups": 8}, True),
        ({"kernel_size": 3, "groups": 8}, False),
        ({"kernel_size": 3, "stride": 2, "groups": 2}, False),
        ({"kernel_size": 3, "stride": 2}, False),
    ],
)
def test_depthwise_convolutions_that_are_slow_in_bfloat16_compute_in_float32(
    options: dict[str, int], leaves: bool
) -> None:
    torch.manual_seed(0)
    conv, images = nn.Conv2d(8, 8, **options), torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        exact = conv(images)
        avoid_slow_kernels_(nn.Sequential(conv))
        with torch.autocast("cpu", torch.bfloat16):
            within = conv(images.bfloat16())
            of_float32 = conv(images)
    assert within.dtype == of_float32.dtype == (torch.float32 if leaves else torch.bfloat16)
    assert torch.equal(of_float32, exact) == leaves
    assert torch.allclose(within.float(), exact, atol=0.05)


def test_a_network_keeps_its_parameters_and_can_be_copied() -> None:
    network = seeded_network("mobilenetv2")
    before = {name: parameter for name, parameter in network.named_parameters()}
    state = copy.deepcopy(network.state_dict())
    avoid_slow_kernels_(network)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    twin = copy.deepcopy(network)
    assert all(torch.equal(tensor, state[name]) for name, tensor in twin.state_dict().items())
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    left = [module for module in convs if type(module) is not nn.Conv2d]
    assert [module.stride for module in left] == [(2, 2)] * 3
