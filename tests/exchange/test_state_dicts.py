"""Grafts of two state dicts equal those of populations; the order of entries gives the sites."""

from typing import Any

import pytest
import torch
from network_makers import copied, same_bits, trained_looking
from safetensors.torch import load, save
from torch import Tensor, nn

import graftpop
from graftpop.errors import ModelError
from graftpop.exchange.grafting import Grafting
from graftpop.exchange.state_dicts import convolutions_of
from graftpop.settings import GraftSettings
from graftpop.training.flat_state import FlatState
from graftpop.training.sites import find_sites

# WideResNet and DenseNet have their BatchNorm before the convolution
CONVOLUTION_FIRST = (
    "resnet8",
    "resnet20",
    "mobilenetv2",
    "vgg16",
    "resnext",
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
)
NORM_FIRST = ("wrn28_10", "densenet")


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    return trained_looking(name, 1), trained_looking(name, 2)


def as_in_a_population(receiver: nn.Module, donor: nn.Module, side: int, A: float, c: float) -> dict[str, Tensor]:
    """Graft the donor into the receiver as a peer does, and return the receiver's state."""
    sites = find_sites(receiver, (3, side, side), "net")
    settings = GraftSettings(A=A, c=c)
    own, theirs = (Grafting(FlatState(network), sites, settings) for network in (receiver, donor))
    snapshot = theirs.publish(1, theirs.entropies(), torch.empty(0, dtype=torch.int64))
    own.graft_(own.alpha(own.entropies(), snapshot), snapshot)
    return dict(receiver.state_dict())


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert list(one) == list(other)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("name", CONVOLUTION_FIRST)
def test_state_dict_graft_equals_a_populations_exchange(name: str) -> None:
    receiver, donor = pair(name)
    grafted = graftpop.graft(receiver.state_dict(), donor.state_dict(), A=0.7, c=20.0)
    assert largest_difference(grafted, as_in_a_population(receiver, donor, 64, 0.7, 20.0)) < 1e-6


@pytest.mark.parametrize("name", NORM_FIRST)
def test_population_finds_fewer_sites_in_preactivation_networks(name: str) -> None:
    receiver, donor = pair(name)
    convolutions = convolutions_of(receiver.state_dict())
    sites = [f"{site.conv}.weight" for site in find_sites(receiver, (3, 32, 32), name)]
    assert set(sites) < set(convolutions)
    assert all(
        torch.isfinite(tensor.float()).all()
        for tensor in graftpop.graft(receiver.state_dict(), donor.state_dict()).values()
    )


def test_arguments_are_unchanged_and_the_result_loads() -> None:
    receiver, donor = pair("resnet8")
    before, donor_before = copied(receiver.state_dict()), copied(donor.state_dict())
    grafted = graftpop.graft(receiver.state_dict(), donor.state_dict())
    assert same_bits(receiver.state_dict(), before)
    assert same_bits(donor.state_dict(), donor_before)
    assert list(grafted) == list(before)
    assert all(tensor.data_ptr() != receiver.state_dict()[name].data_ptr() for name, tensor in grafted.items())
    assert not any(tensor.requires_grad for tensor in grafted.values())
    assert not same_bits(grafted, before)
    assert all(torch.equal(grafted[name], before[name]) for name in before if "num_batches" in name)
    receiver.load_state_dict(grafted)


def test_A_of_0_gives_the_mean() -> None:
    receiver, donor = (network.state_dict() for network in pair("mobilenetv2"))
    grafted = graftpop.graft(receiver, donor, A=0.0)
    for name, tensor in grafted.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (receiver[name] + donor[name]) / 2)


def test_other_entries_take_the_alpha_of_their_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    receiver = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    donor = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    # the first layer has the higher entropy in the receiver, the second in the donor
    receiver["0.weight"], donor["2.weight"] = (
        torch.linspace(0, 1, 108).view(4, 3, 3, 3),
        torch.linspace(0, 1, 16).view(4, 4, 1, 1),
    )
    grafted = graftpop.graft(receiver, donor, A=1.0, c=1e9)
    kept = {name: float(tensor.double().mean()) for name, tensor in grafted.items() if tensor.dim() < 4}
    assert kept == pytest.approx({name: 0.0 if name < "2" or "num" in name else 1.0 for name in kept}, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype: torch.dtype) -> None:
    receiver, donor = (
        {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in network.state_dict().items()
        }
        for network in pair("resnet8")
    )
    grafted = graftpop.graft(receiver, donor)
    assert {name: tensor.dtype for name, tensor in grafted.items()} == {
        name: tensor.dtype for name, tensor in receiver.items()
    }


def changed(state: dict[str, Tensor], **entries: Any) -> dict[str, Tensor]:
    return {**state, **{name.replace("__", "."): value for name, value in entries.items()}}


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: without(state, "bn1.bias"), "got 'bn1.bias' in the receiver only"),
        (lambda state: changed(state, extra=torch.ones(1)), "got 'extra' in the donor only"),
        (
            lambda state: changed(state, bn1__bias=torch.ones(17)),
            r"'bn1\.bias' must be alike in both, got \(16,\) of float32 on cpu in the receiver and \(17,\)",
        ),
        (
            lambda state: changed(state, bn1__bias=torch.ones(16).double()),
            r"and \(16,\) of float64 on cpu in the donor",
        ),
        (
            lambda state: changed(state, conv1__weight=torch.full((16, 3, 3, 3), float("nan"))),
            r"the donor's 'conv1\.weight' must be finite",
        ),
    ],
)
def test_mismatched_state_dicts_are_refused_in_one_line(change: Any, reason: str) -> None:
    receiver, donor = (dict(network.state_dict()) for network in pair("resnet8"))
    with pytest.raises(ModelError, match=reason) as caught:
        graftpop.graft(receiver, change(donor))
    assert "\n" not in str(caught.value)


def test_entries_sorted_by_name_are_refused() -> None:
    """By name BatchNorms come before their convolutions, and would take the alpha of the convolution before."""
    receiver, donor = (load(save(network.state_dict())) for network in pair("resnet8"))
    receiver, donor = dict(sorted(receiver.items())), dict(sorted(donor.items()))
    with pytest.raises(ModelError, match=r"order.*got 'bn1\.bias' before its weight"):
        graftpop.graft(receiver, donor)


def test_state_dict_without_a_convolution_is_refused() -> None:
    state = nn.Linear(4, 2).state_dict()
    with pytest.raises(ModelError, match=r"convolution.*got none"):
        graftpop.graft(state, state)


def test_entries_of_a_later_module_out_of_order_are_refused() -> None:
    receiver, donor = (dict(network.state_dict()) for network in pair("resnet8"))
    for state in (receiver, donor):
        state["layer1.0.bn1.weight"] = state.pop("layer1.0.bn1.weight")
    with pytest.raises(ModelError, match=r"order.*got 'layer1\.0\.bn1\.bias' before its weight"):
        graftpop.graft(receiver, donor)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_single_weight_that_is_not_finite_is_refused(value: str) -> None:
    receiver, donor = (dict(network.state_dict()) for network in pair("resnet8"))
    receiver["conv1.weight"] = receiver["conv1.weight"].clone()
    receiver["conv1.weight"][0, 0, 0, 0] = float(value)
    with pytest.raises(ModelError, match=r"the receiver's 'conv1\.weight' must be finite"):
        graftpop.graft(receiver, donor)
