"""Dropped filters are removed from a network without changing its outputs."""

import math
import sys
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from network_makers import seeded_network, trained_looking
from safetensors.torch import load, save
from site_networks import site_network
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models import build
from graftpop.models.densenet import DenseNet
from graftpop.models.narrowing import narrow_
from graftpop.models.resnext import ResNeXt
from graftpop.models.wide_resnet import WideResNet
from graftpop.sites import Site, find_sites
from graftpop.training.flat_state import FlatState
from graftpop.training.removal import check_removable, dropped_filters, remove_dropped

pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")

Shape = tuple[int, int, int]
SMALL: Shape = (3, 8, 8)
CIFAR: Shape = (3, 32, 32)


def drop_(network: nn.Module, conv: str, norm: str, indices: list[int]) -> None:
    for module in (network.get_submodule(conv), network.get_submodule(norm)):
        for parameter in module.parameters():
            parameter.detach()[indices] = 0.0


def drop_thirds_(network: nn.Module, sites: list[Site], everywhere_the_same: bool) -> dict[str, list[int]]:
    """Drop a third of each site's filters: every third one, or a random third."""
    generator = torch.Generator().manual_seed(0)
    dropped = {}
    for site in sites:
        width = len(network.get_parameter(f"{site.layer}.weight"))
        third = range(0, width, 3) if everywhere_the_same else torch.randperm(width, generator=generator)[: width // 3]
        dropped[site.layer] = sorted(int(index) for index in third)
        drop_(network, site.layer, site.norm or "", dropped[site.layer])
    return dropped


def with_random_entries(network: nn.Module) -> nn.Module:
    """Return the network with random entries, none of which has its default value."""
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
    return network


@torch.no_grad()
def outputs(network: nn.Module, shape: Shape = SMALL) -> Tensor:
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    logits: Tensor = network.eval()(images)
    return logits


def remove_and_compare(network: nn.Module, shape: Shape = SMALL) -> tuple[nn.Module, int]:
    """Remove the dropped filters, and assert that the outputs are the same."""
    small, num_removed = remove_dropped(network, find_sites(network, shape, "network", "conv_bn"), shape, "network")
    expected = outputs(network, shape)
    torch.testing.assert_close(outputs(small, shape), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    return small, num_removed


def inner_filters(dropped: dict[str, list[int]]) -> int:
    """Return the number of dropped filters inside the blocks of a ResNet, which are not summands of a sum."""
    return sum(len(indices) for conv, indices in dropped.items() if conv.endswith(".conv1"))


def all_filters(dropped: dict[str, list[int]]) -> int:
    return sum(len(indices) for indices in dropped.values())


def all_but_stem(dropped: dict[str, list[int]]) -> int:
    return all_filters(dropped) - len(dropped["conv1"])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[dict[str, list[int]]], int]]] = {
    "resnet8": (lambda: trained_looking("resnet8", 0), inner_filters),
    "resnet20": (lambda: trained_looking("resnet20", 0), inner_filters),
    "resnet56": (lambda: trained_looking("resnet56", 0), inner_filters),
    "resnet8_leaky": (lambda: trained_looking("resnet8_leaky", 0), inner_filters),
    "vgg16": (lambda: trained_looking("vgg16", 0), all_filters),
    "wide resnet": (lambda: WideResNet(2, 2, 10), all_filters),
    "narrow wide resnet": (lambda: WideResNet(1, 1, 10), all_but_stem),
    "densenet": (lambda: DenseNet(2, 6, 10), all_but_stem),
}


@pytest.mark.parametrize("everywhere_the_same", [False, True], ids=["independent", "the same"])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_removable_filters_are_removed(name: str, everywhere_the_same: bool) -> None:
    make, removable = NETWORKS[name]
    network = make()
    dropped = drop_thirds_(network, find_sites(network, CIFAR, name, "conv_bn"), everywhere_the_same)
    _, num_removed = remove_and_compare(network, CIFAR)
    assert num_removed == removable(dropped) > 0


def test_mobilenet_loses_filters_and_depthwise_inputs() -> None:
    network = trained_looking("mobilenetv2", 0)
    dropped = drop_thirds_(network, find_sites(network, CIFAR, "mobilenetv2", "conv_bn"), everywhere_the_same=True)
    assert remove_and_compare(network, CIFAR)[1] == all_filters(dropped)
    network = trained_looking("mobilenetv2", 0)
    dropped = drop_thirds_(network, find_sites(network, CIFAR, "mobilenetv2", "conv_bn"), everywhere_the_same=False)
    in_pairs = sum(
        2 * len(indices) for conv, indices in dropped.items() if conv.startswith("layers.") and conv.endswith(".conv2")
    )
    assert in_pairs <= remove_and_compare(network, CIFAR)[1] < all_filters(dropped)


@pytest.mark.parametrize(("everywhere_the_same", "share"), [(False, 0.4), (True, 1.0)])
def test_torchvision_resnet_loses_completely_dropped_sums(everywhere_the_same: bool, share: float) -> None:
    network = trained_looking("torchvision:resnet18", 0)
    dropped = drop_thirds_(network, find_sites(network, CIFAR, "resnet18", "conv_bn"), everywhere_the_same)
    assert share * all_filters(dropped) <= remove_and_compare(network, CIFAR)[1] <= all_filters(dropped)


def test_resnext_keeps_channels_of_grouped_convolutions() -> None:
    network = ResNeXt(1, 4, 8, 10)
    drop_thirds_(network, find_sites(network, CIFAR, "resnext", "conv_bn"), everywhere_the_same=True)
    small, num_removed = remove_and_compare(network, CIFAR)
    assert num_removed > 0
    for block in (f"layers.{index}" for index in range(3)):
        for conv in ("conv1", "conv2"):
            assert (
                small.get_submodule(f"{block}.{conv}").out_channels
                == network.get_submodule(f"{block}.{conv}").out_channels
            )


class Residual(nn.Module):
    """Adds two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(images)))
        x = x + F.relu(self.norm(self.conv(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
@settings(max_examples=15)
def test_sum_loses_channels_dropped_in_both_summands(stem: set[int], branch: set[int]) -> None:
    network = with_random_entries(Residual())
    drop_(network, "stem", "stem_norm", sorted(stem))
    drop_(network, "conv", "norm", sorted(branch))
    small, num_removed = remove_and_compare(network)
    both = stem & branch
    assert num_removed == 2 * min(len(both), 5)  # one channel is kept
    assert small.get_submodule("linear").in_features == 6 - num_removed // 2


class SharedReader(nn.Module):
    """Applies one convolution to each of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.left_norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.right, self.right_norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.reader = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        left = self.reader(F.relu(self.left_norm(self.left(images))))
        right = self.reader(F.relu(self.right_norm(self.right(images))))
        logits: Tensor = (left + 2 * right).mean((2, 3))
        return logits


def test_shared_convolution_loses_channels_dropped_at_every_use() -> None:
    network = with_random_entries(SharedReader())
    drop_(network, "left", "left_norm", [1, 2])
    drop_(network, "right", "right_norm", [2, 4])
    small, num_removed = remove_and_compare(network)
    assert (num_removed, small.get_submodule("reader").in_channels) == (2, 5)


def test_channel_zero_for_typical_images_only_is_kept() -> None:
    network = with_random_entries(Residual())
    drop_(network, "stem", "stem_norm", [2])
    network.get_parameter("norm.bias").detach()[2] = -1e6  # ReLU outputs zero for every typical image
    assert remove_and_compare(network)[1] == 0


@pytest.mark.parametrize("remains", ["conv.weight", "conv.bias", "norm.weight", "norm.bias"])
def test_filter_with_any_nonzero_parameter_is_not_dropped(remains: str) -> None:
    network = nn.Sequential()
    network.add_module("conv", nn.Conv2d(3, 4, 3))
    network.add_module("norm", nn.BatchNorm2d(4))
    network.add_module("classifier", nn.Sequential(nn.Flatten(), nn.Linear(144, 2)))
    with_random_entries(network)
    drop_(network, "conv", "norm", [0, 2])
    sites = find_sites(network, SMALL, "network", "conv_bn")
    assert dropped_filters(network, sites) == {"conv": [0, 2]}
    network.get_parameter(remains).detach()[2] = 1e-30
    assert dropped_filters(network, sites) == {"conv": [0]}


def test_site_without_batchnorm_scale_and_shift_drops_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 2))
    with_random_entries(network)
    drop_(network, "0", "1", [1])
    assert dropped_filters(network, find_sites(network, SMALL, "network", "conv_bn")) == {"0": []}
    assert remove_and_compare(network)[1] == 0


class Concatenated(nn.Module):
    """Concatenates two branches, whose channels then enter another BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.left_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.right, self.right_norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.norm = nn.BatchNorm2d(10)
        self.linear = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.cat((self.left_norm(self.left(images)), self.right_norm(self.right(images))), dim=1)
        logits: Tensor = self.linear(F.relu(self.norm(x)).mean((2, 3)))
        return logits


def test_constant_channel_before_another_batchnorm_is_kept() -> None:
    network = with_random_entries(Concatenated())
    drop_(network, "left", "left_norm", [1])
    drop_(network, "right", "right_norm", [0, 5])
    assert remove_and_compare(network)[1] == 0
    for parameter in network.get_submodule("norm").parameters():
        parameter.detach()[[1, 4 + 5]] = 0.0
    small, num_removed = remove_and_compare(network)
    widths = [small.get_submodule(name).out_channels for name in ("left", "right")]
    assert (num_removed, *widths) == (2, 3, 5)
    weight = network.get_parameter("linear.weight")
    assert torch.equal(small.get_parameter("linear.weight"), weight[:, [0, 2, 3, 4, 5, 6, 7, 8]])


def test_depthwise_filter_is_removed_with_its_input() -> None:
    def network() -> nn.Module:
        return with_random_entries(
            nn.Sequential(
                nn.Conv2d(3, 6, 1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 6, 3, groups=6),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 4, 1),
                nn.Flatten(),
                nn.Linear(4 * 36, 2),
            )
        )

    expansion_alone = network()
    drop_(expansion_alone, "0", "1", [3])
    assert remove_and_compare(expansion_alone)[1] == 0
    depthwise_alone = network()
    drop_(depthwise_alone, "3", "4", [3])
    small, num_removed = remove_and_compare(depthwise_alone)
    assert (num_removed, small.get_submodule("0").out_channels, small.get_submodule("3").groups) == (2, 5, 5)


def test_flattened_channel_is_removed_with_all_its_pixels() -> None:
    network = with_random_entries(
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2))
    )
    drop_(network, "0", "1", [0, 3])
    small, num_removed = remove_and_compare(network)
    assert (num_removed, small.get_submodule("4").in_features) == (2, 3 * 36)


class Sliced(nn.Module):
    """Its code contains numbers of channels."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Conv2d({"split": 4, "slice": 4, "view": 8, "pad": 12}[way], 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(images)))
        if self.way == "split":
            first, second = torch.split(x, 4, dim=1)
            x = first + 2 * second
        elif self.way == "slice":
            x = x[:, 4:]
        elif self.way == "view":
            x = x.view(len(x), 2, 4, 8, 8).transpose(1, 2).reshape(len(x), 8, 8, 8)
        else:
            x = F.pad(x, (0, 0, 0, 0, 2, 2))
        logits: Tensor = self.head(x).mean((2, 3))
        return logits


@pytest.mark.parametrize("way", ["split", "slice", "view", "pad"])
def test_channels_counted_in_the_networks_code_are_kept(way: str) -> None:
    network = with_random_entries(Sliced(way))
    drop_(network, "conv", "norm", [1, 2, 5, 6])
    assert remove_and_compare(network)[1] == 0


def test_layer_keeps_one_filter_and_network_its_logits() -> None:
    network = with_random_entries(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3),
            nn.BatchNorm2d(3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )
    drop_(network, "0", "1", [0, 1, 2, 3])
    drop_(network, "3", "4", [1])
    small, num_removed = remove_and_compare(network)
    assert num_removed == 3
    assert outputs(small).shape == (5, 3)


def test_removal_leaves_the_given_network_unchanged() -> None:
    network = trained_looking("resnet8", 0).train()
    sites = find_sites(network, CIFAR, "resnet8", "conv_bn")
    drop_thirds_(network, sites, everywhere_the_same=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.random.get_rng_state()
    small, _ = remove_dropped(network, sites, CIFAR, "resnet8")
    check_removable(network, sites, CIFAR, "resnet8")
    assert network.training
    assert not small.training
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for module in (*network.modules(), *small.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_network_without_dropped_filters_loses_nothing() -> None:
    network = trained_looking("resnet8", 0)
    small, num_removed = remove_and_compare(network, CIFAR)
    assert num_removed == 0
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in small.state_dict().items())


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "vgg16"])
def test_smaller_network_is_restored_from_its_file(name: str) -> None:
    network = trained_looking(name, 0)
    FlatState(network)  # as in a learner
    drop_thirds_(network, find_sites(network, CIFAR, name, "conv_bn"), everywhere_the_same=False)
    small, num_removed = remove_and_compare(network, CIFAR)
    assert num_removed > 0
    stored = load(save({key: tensor.contiguous() for key, tensor in small.state_dict().items()}))
    restored = build(name, 10)
    narrow_(restored, stored)
    restored.load_state_dict(stored)
    assert torch.equal(outputs(restored, CIFAR), outputs(small, CIFAR))
    assert str(restored.eval()) == str(small)  # the width attributes of the modules are equal too


def test_narrowing_keeps_full_widths_and_wider_states_are_refused() -> None:
    network, whole = seeded_network("resnet8"), trained_looking("resnet8", 1)
    narrow_(network, whole.state_dict())
    network.load_state_dict(whole.state_dict())
    wider = {name: torch.cat((tensor, tensor)) for name, tensor in whole.state_dict().items() if tensor.dim()}
    narrow_(network, wider)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict(wider)


@pytest.mark.parametrize("name", ["resnet20_leaky", "mobilenetv2", "torchvision:resnet18"])
def test_traceable_networks_are_found_removable(name: str) -> None:
    network = seeded_network(name)
    check_removable(network, find_sites(network, CIFAR, name, "conv_bn"), CIFAR, name)
    assert dropped_filters(network, find_sites(network, CIFAR, name, "conv_bn")).keys()


class ScaledByChannels(nn.Sequential):
    """The outputs depend on the number of channels, by a function of it."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        super().__init__(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        x = self[1](self[0](images)).relu()
        logits: Tensor = self[2](x).mean((2, 3)) * self.factor(x.shape[1])
        return logits


@pytest.mark.parametrize("slope", [1.0, 1e-3])
def test_changed_outputs_are_refused_before_any_training(slope: float) -> None:
    network = ScaledByChannels(lambda num_channels: 1.0 + slope * num_channels)
    sites = find_sites(network, SMALL, "counting", "conv_bn")
    with pytest.raises(
        ModelError, match=r"^pruning\.remove: [^\n]+ 'counting': [^\n]+ outputs [^\n]+; [^\n]+ pruning\.remove: false$"
    ):
        check_removable(network, sites, SMALL, "counting")


def test_untraceable_network_is_refused_in_one_line() -> None:
    network = seeded_network("torchvision:shufflenet_v2_x0_5")
    sites = find_sites(network, CIFAR, "shufflenet", "conv_bn")
    with pytest.raises(
        ModelError, match=r"^pruning\.remove: [^\n]+ 'shufflenet': [^\n]+; [^\n]+ pruning\.remove: false$"
    ):
        check_removable(network, sites, CIFAR, "shufflenet")


def test_missing_torch_pruning_is_refused_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    network = seeded_network("resnet8")
    with pytest.raises(ModelError, match=r"^pruning: [^\n]+ torch-pruning[^\n]+ graftpop\[pruning\], [^\n]+$"):
        check_removable(network, find_sites(network, CIFAR, "resnet8", "conv_bn"), CIFAR, "resnet8")


def test_filters_of_a_diverged_network_are_removed() -> None:
    network = ScaledByChannels(lambda num_channels: math.nan)
    drop_(network, "0", "1", [1, 2])
    _, num_removed = remove_dropped(network, find_sites(network, SMALL, "diverged", "conv_bn"), SMALL, "diverged")
    assert num_removed == 2


def test_outputs_are_compared_in_evaluation_mode() -> None:
    """In training mode, dropout alone makes the outputs differ."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten()
    )
    drop_(network, "0", "1", [1, 2])
    _, num_removed = remove_dropped(network, find_sites(network, SMALL, "dropout", "conv_bn"), SMALL, "dropout")
    assert num_removed == 2


def test_rows_of_linear_layers_are_removed_and_counted_but_no_class() -> None:
    network = with_random_entries(
        nn.Sequential(
            nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 10)
        )
    )
    drop_(network, "1", "2", [1, 4, 5])
    for layer, rows in (("4", [0, 3]), ("6", [2])):
        for parameter in network.get_submodule(layer).parameters():
            parameter.detach()[rows] = 0.0
    small, num_removed = remove_dropped(network, find_sites(network, SMALL, "network", "all"), SMALL, "network")
    assert num_removed == 5
    assert [len(small.get_parameter(f"{layer}.weight")) for layer in ("1", "4", "6")] == [5, 4, 10]
    torch.testing.assert_close(outputs(small), outputs(network))


@pytest.mark.parametrize("name", ["TwoDimensions", "Vit", "ConvNext", "Transposed", "Parametrized", "Perceptron"])
def test_networks_of_every_kind_of_site_are_found_removable(name: str) -> None:
    network = site_network(name)
    check_removable(network, find_sites(network, SMALL, name, "all"), SMALL, name)


def test_circle_of_channels_is_refused_instead_of_followed_without_end() -> None:
    """torch-pruning does not end on overlapping parts of an attention's output."""
    network = site_network("TorchAttention")
    with pytest.raises(ModelError, match=r"^pruning\.remove: [^\n]+ 'circle': [^\n]+; [^\n]+: false$"):
        check_removable(network, find_sites(network, SMALL, "circle", "all"), SMALL, "circle")
