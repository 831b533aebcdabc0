"""Floating-point operations and parameters, against closed forms and published counts."""

from functools import partial

import pytest
import torch
from network_makers import seeded_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graftpop.models.flops import count_flops, count_parameters

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("network", "multiply_adds"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), 5 * 8 * 8 * 3 * 9),
        (nn.Conv2d(3, 5, 3), 5 * 6 * 6 * 3 * 9),
        (nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), 6 * 4 * 4 * 1 * 9),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), 192 * 7),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), 0),
    ],
    ids=["convolution", "without padding", "in groups with stride", "linear", "all the rest"],
)
def test_multiply_add_counts_as_two_operations(network: nn.Module, multiply_adds: int) -> None:
    assert count_flops(network, (3, 8, 8)) == 2 * multiply_adds


# Lin et al., Knowledge-driven Differential Filter Sampler, arXiv:2307.00198, models of the code that comes with it;
# its "FLOPs" are multiply-adds
@pytest.mark.parametrize(
    ("name", "multiply_adds", "parameters"), [("resnet56", 125.49e6, 0.85e6), ("resnet110", 252.89e6, 1.72e6)]
)
def test_resnets_have_the_published_size(name: str, multiply_adds: float, parameters: float) -> None:
    with torch.device("meta"):
        network = seeded_network(name)
    assert count_flops(network, CIFAR) / 2 == pytest.approx(multiply_adds, abs=0.005e6)
    assert count_parameters(network) == pytest.approx(parameters, abs=0.01e6)


PROJECTIONS = 16 * 32 * 16 * 16 + 32 * 64 * 8 * 8


# github.com/chenyaofo/pytorch-cifar-models, table of CIFAR-10, "#MAdds(M)": its ResNets have two 1x1 convolutions in
# shortcuts, where ours (option A of the paper) have no weights, and its VGG has two more linear layers.
@pytest.mark.parametrize(
    ("name", "millions", "extra"),
    [
        ("resnet20", 40.81, PROJECTIONS),
        ("resnet32", 69.12, PROJECTIONS),
        ("resnet44", 97.44, PROJECTIONS),
        ("resnet56", 125.75, PROJECTIONS),
        ("vgg16", 313.73, 2 * 512 * 512),
    ],
)
def test_multiply_adds_differ_from_another_count_by_its_extra_layers(name: str, millions: float, extra: int) -> None:
    with torch.device("meta"):
        network = seeded_network(name)
    assert (count_flops(network, CIFAR) / 2 + extra) / 1e6 == pytest.approx(millions, abs=0.006)


def test_tied_weights_count_once_and_statistics_do_not_count() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    network[1].weight = network[0].weight
    assert count_parameters(network) == 16 + 4 + 4 + 8


def test_counting_does_not_change_the_network() -> None:
    network = seeded_network("resnet8").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_flops(network, CIFAR)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Attention(nn.Module):
    """Self-attention of torch over the 64 pixels, with 4 channels and two heads."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer = kind(4, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.MultiheadAttention):
            pixels, _ = self.layer(pixels, pixels, pixels, need_weights=False)
            return pixels
        encoded: torch.Tensor = self.layer(pixels)
        return encoded


ATTENTION = 64 * 4 * (3 * 4 + 4) + 2 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("kind", "multiply_adds"),
    [
        (nn.MultiheadAttention, ATTENTION),
        (partial(nn.TransformerEncoderLayer, dim_feedforward=5), ATTENTION + 2 * 64 * 4 * 5),
    ],
    ids=["attention", "encoder layer"],
)
def test_torchs_own_attention_counts_in_evaluation_mode(kind: type[nn.Module], multiply_adds: int) -> None:
    assert count_flops(Attention(kind), (4, 8, 8)) == 2 * multiply_adds


@pytest.mark.parametrize("name", ["torchvision:vit_b_16", "torchvision:swin_t", "torchvision:efficientnet_b0"])
def test_flops_equal_those_of_torchs_counter(name: str) -> None:
    shape = (3, 224, 224)
    with torch.device("meta"):
        network = seeded_network(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, *shape, device="meta"))
    assert count_flops(network, shape) == counter.get_total_flops()
