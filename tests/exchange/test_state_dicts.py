"""Grafts of two state dicts equal those of populations; the order of entries gives the sites."""

from typing import Any

import pytest
import torch
from graft_makers import conv_bn_sites, make_grafting, snapshot_of
from network_makers import copied, same_bits, trained_looking
from safetensors.torch import load, save
from torch import Tensor, nn

import graftpop
from graftpop.errors import ModelError
from graftpop.ops.alpha import adaptive_alpha
from graftpop.ops.entropy import entropy
from graftpop.ops.graft import blend
from graftpop.sites import find_sites
from graftpop.sites.by_name import convolutions_of, weights_of
from graftpop.training.flat_state import FlatState

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
    sites = conv_bn_sites(receiver, side)
    make_grafting(FlatState(receiver), sites, A=A, c=c).receive([snapshot_of(FlatState(donor), sites)])
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
    sites = [f"{site.layer}.weight" for site in find_sites(receiver, (3, 32, 32), name, "conv_bn")]
    assert set(sites) < set(convolutions)
    assert all(
        torch.isfinite(tensor.float()).all()
        for tensor in graftpop.graft(receiver.state_dict(), donor.state_dict()).values()
    )


def by_last_site(
    receiver: dict[str, Tensor], donor: dict[str, Tensor], sites: list[str], A: float, c: float
) -> dict[str, Tensor]:
    """Return the graft of state dicts with given sites, entry by entry."""
    alphas = {name: adaptive_alpha(entropy(receiver[name]), entropy(donor[name]), A=A, c=c) for name in sites}
    grafted, alpha = {}, alphas[sites[0]]
    for name, own in receiver.items():
        alpha = alphas.get(name, alpha)
        grafted[name] = blend(own, donor[name], alpha) if own.is_floating_point() else own
    return grafted


@pytest.mark.parametrize("name", ["resnet8", "resnet20_leaky", "mobilenetv2", "vgg16"])
def test_cifar_networks_have_their_convolutions_grafted_alone(name: str) -> None:
    """To the bit as before other weights could be sites, so that results of earlier versions can be repeated."""
    receiver, donor = (network.state_dict() for network in pair(name))
    convolutions = [name for name, tensor in receiver.items() if name.endswith(".weight") and tensor.dim() == 4]
    grafted = graftpop.graft(receiver, donor, A=0.4, c=50.0)
    assert same_bits(grafted, by_last_site(receiver, donor, convolutions, A=0.4, c=50.0))


class Transformer(nn.Module):
    """Tensors of many kinds; no forward pass."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.token = nn.Parameter(torch.rand(1, 1, 8))
            self.positions = nn.Parameter(torch.rand(1, 5, 8))
            self.patches = nn.Conv2d(3, 8, 4)
            self.words = nn.Embedding(20, 8)
            self.mix = nn.TransformerEncoderLayer(8, 2, 16)
            self.scale = nn.Conv2d(8, 8, 1, groups=8)
            self.up, self.over_time, self.video = nn.ConvTranspose2d(8, 4, 2), nn.Conv1d(8, 6, 3), nn.Conv3d(2, 4, 3)
            self.gain = nn.Parameter(torch.rand(8, 1, 1))
            self.head = nn.Linear(8, 10)
        self.register_buffer("places", torch.arange(10).view(2, 5))


def test_network_of_few_convolutions_has_all_its_weights_grafted() -> None:
    receiver, donor = Transformer(1).state_dict(), Transformer(2).state_dict()
    sites = [
        "positions",
        "patches.weight",
        "words.weight",
        "mix.self_attn.in_proj_weight",
        "mix.self_attn.out_proj.weight",
        "mix.linear1.weight",
        "mix.linear2.weight",
        "scale.weight",
        "up.weight",
        "over_time.weight",
        "video.weight",
        "head.weight",
    ]
    assert weights_of(receiver) == sites
    grafted = graftpop.graft(receiver, donor, A=1.0, c=5.0)
    assert same_bits(grafted, by_last_site(receiver, donor, sites, A=1.0, c=5.0))
    Transformer(3).load_state_dict(grafted)


@pytest.mark.parametrize(("num_rows", "are_sites"), [(10, False), (11, True)])
def test_convolutions_are_the_only_sites_from_90_percent_on(num_rows: int, are_sites: bool) -> None:
    """The convolution has 900 weights, and a Linear layer of 10 rows has 100; running statistics do not count."""
    receiver, donor = (
        {
            "0.weight": torch.linspace(0, 1, 900).pow(power).view(9, 100, 1, 1),
            "1.running_mean": torch.rand(9),
            "1.running_var": torch.rand(9),
            "2.weight": torch.linspace(0, 1, 10 * num_rows).pow(3 - power).view(num_rows, 10),
        }
        for power in (1, 2)
    )
    grafted = graftpop.graft(receiver, donor, A=1.0, c=1e9)
    assert torch.allclose(grafted["0.weight"], receiver["0.weight"])
    assert torch.allclose(grafted["2.weight"], (donor if are_sites else receiver)["2.weight"])


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
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    receiver = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    donor = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    # the first layer has the higher entropy in the receiver, the second in the donor
    receiver["0.weight"], donor["2.weight"] = (
        torch.linspace(0, 1, 108).view(4, 3, 3, 3),
        torch.linspace(0, 1, 144).view(4, 4, 3, 3),
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


def test_state_dict_without_a_weight_is_refused() -> None:
    state = {**nn.LayerNorm(4).state_dict(), "places": torch.ones(2, 2).long(), "token": torch.ones(1, 1, 4)}
    with pytest.raises(ModelError, match=r"weight.*got none"):
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
