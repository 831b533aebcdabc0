"""Sites are found in the graph of a network, independent of module names."""

import pytest
import torch
from network_makers import seeded_network
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.sites import find_sites


def pairs(network: nn.Module, channels: int = 3, height: int = 8, width: int = 8) -> list[tuple[str, str]]:
    sites = find_sites(network, (channels, height, width), "network", "conv_bn")
    assert all(site.is_conv_bn and site.name == site.layer for site in sites)
    return [(site.layer, site.norm or "") for site in sites]


class Misleading(nn.Module):
    """Every module has a name that contradicts its kind or its position."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.Conv2d(3, 4, 1)
        self.conv2 = nn.BatchNorm2d(4)
        self.conv1 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv2(self.shortcut(self.conv1(self.bn1(images)))).mean((2, 3))


def test_module_names_are_not_used() -> None:
    assert pairs(Misleading()) == [("bn1", "conv1"), ("shortcut", "conv2")]


class Reversed(nn.Module):
    """Modules run in another order than they are registered in."""

    def __init__(self) -> None:
        super().__init__()
        self.last_norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.first_norm, self.first = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last_norm(self.last(self.first_norm(self.first(images)))).mean((2, 3))


def test_sites_are_in_module_order() -> None:
    assert pairs(Reversed()) == [("last", "last_norm"), ("first", "first_norm")]


@pytest.mark.parametrize(
    "between",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.MaxPool2d(1), nn.Conv2d(4, 4, 1)],
    ids=["relu", "relu in place", "pooling", "another convolution"],
)
def test_batchnorm_after_another_module_is_no_site(between: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), between, nn.BatchNorm2d(4))
    sites = pairs(network)
    assert sites[0] == ("0", "1")
    assert ("2", "4") not in sites


def test_batchnorm_after_two_other_modules_is_no_site() -> None:
    """The output of the second may have the address of the convolution's, which nothing else refers to any more."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.MaxPool2d(1), nn.BatchNorm2d(4)
    )
    assert pairs(network) == [("0", "1")]


class PreActivation(nn.Module):
    """The second BatchNorm sees the sum of two branches."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images))
        out = self.conv2(x)
        if self.in_place:
            out += x
        else:
            out = out + x
        return self.bn2(out).mean((2, 3))


@pytest.mark.parametrize("in_place", [False, True])
def test_batchnorm_after_a_sum_is_no_site(in_place: bool) -> None:
    assert pairs(PreActivation(in_place)) == [("conv1", "bn1")]


class TwoNorms(nn.Module):
    """Two BatchNorms consume the output of one convolution; the first to run is registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.runs_last, self.runs_first = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return (self.runs_first(x) + self.runs_last(x)).mean((2, 3))


def test_first_batchnorm_to_run_belongs_to_the_site() -> None:
    assert pairs(TwoNorms()) == [("conv", "runs_first")]


def test_identity_between_convolution_and_batchnorm_is_ignored() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.BatchNorm2d(4))
    assert pairs(network) == [("0", "2")]


@pytest.mark.parametrize(
    ("name", "num_sites", "num_convolutions"),
    [
        ("resnet8", 7, 7),
        ("mobilenetv2", 57, 57),
        ("resnext", 31, 31),
        ("vgg16", 13, 13),
        ("wrn28_10", 13, 28),  # pre-activation: the stem and the first convolution of each of 12 blocks
        ("densenet", 49, 99),  # the stem and each bottleneck; the other outputs are concatenated before a BatchNorm
        ("torchvision:resnet18", 20, 20),
    ],
)
def test_known_networks_have_the_expected_number_of_sites(name: str, num_sites: int, num_convolutions: int) -> None:
    with torch.device("meta"):
        network = seeded_network(name)
    assert len(pairs(network, 3, 32, 32)) == num_sites
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == num_convolutions


def test_torchvisions_downsampling_convolutions_are_sites() -> None:
    sites = pairs(seeded_network("torchvision:resnet18"), 3, 32, 32)
    assert sites[0] == ("conv1", "bn1")
    assert [f"layer{layer}.0.downsample.0" for layer in (2, 3, 4)] == [conv for conv, _ in sites if "down" in conv]
    assert all(norm == conv.replace("downsample.0", "downsample.1").replace("conv", "bn") for conv, norm in sites)


def test_one_dimensional_convolutions_are_sites() -> None:
    class OneDimensional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(self.conv(images.flatten(2))).mean(2)

    assert pairs(OneDimensional()) == [("conv", "norm")]


def test_find_sites_leaves_the_network_unchanged() -> None:
    network = seeded_network("resnet8").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pairs(network, 3, 32, 32)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
    ],
    ids=["no convolution", "no batchnorm after a convolution", "another normalization"],
)
def test_network_without_a_site_is_refused(network: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"^model\.name: 'plain' has no site, [^\n]+BatchNorm[^\n]*$"):
        find_sites(network, (3, 8, 8), "plain", "conv_bn")


@pytest.mark.parametrize(("name", "side"), [("vgg16", 8), ("torchvision:alexnet", 32), ("torchvision:vit_b_16", 32)])
def test_unsuitable_images_are_refused_with_their_shape(name: str, side: int) -> None:
    with torch.device("meta"):
        network = seeded_network(name)
    with pytest.raises(ModelError, match=rf"^model\.name: '{name}' [^\n]+ \(3, {side}, {side}\): \S[^\n]+; [^\n]+$"):
        find_sites(network, (3, side, side), name, "conv_bn")


def test_error_without_a_message_is_reported_by_its_type() -> None:
    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError

    with pytest.raises(ModelError, match=r"^model\.name: 'silent' [^\n]+ \(3, 8, 8\): AssertionError; [^\n]+$"):
        find_sites(Silent(), (3, 8, 8), "silent", "conv_bn")
