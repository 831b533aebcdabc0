"""The sites of small networks of every kind, against lists written by hand."""

from collections.abc import Mapping

import network_kinds
import pytest
import torch
from site_networks import NETWORKS, site_network
from torch import nn

from graftpop.errors import ModelError
from graftpop.sites import Part, Site, alpha_share, find_sites
from graftpop.sites.find import SiteChoice

SHAPE = (3, 8, 8)

VIT = 5 * 8 + 49 * 8 + 3 * 8 + 9 * 24 + 9 * 8 + 9 * 12 + 13 * 8 + 9 * 10
"""Parameters of the sites of Vit."""

BN = "scale {0}.weight, shift {0}.bias, mean {0}.running_mean, variance {0}.running_var"
NORM = "scale {0}.weight, shift {0}.bias"
PATCHES = {"patches": "linear 8 of patches.weight, bias patches.bias"}
HEAD = {"head": "linear 10 of head.weight, bias head.bias; output"}
PROJ = {"attn.proj": "linear 8 of attn.proj.weight, bias attn.proj.bias"}
QKV = {
    f"attn.qkv.{part}": f"attention 2 of attn.qkv.weight[{start}:{start + 8}], bias attn.qkv.bias[{start}:{start + 8}]"
    for part, start in (("q", 0), ("k", 8), ("v", 16))
}
FUSED = {**PATCHES, **QKV, **PROJ, **HEAD}

EXPECTED: Mapping[str, Mapping[str, str]] = {
    "OneDimension": {
        "conv": f"convolution 8 of conv.weight, {BN.format('norm')}; norm is BatchNorm",
        "grouped": f"convolution 12 of grouped.weight, bias grouped.bias, {NORM.format('instance_norm')}; "
        "instance_norm",
        **HEAD,
    },
    "TwoDimensions": {
        "stem": f"convolution 8 of stem.weight, bias stem.bias, {BN.format('bn')}; bn is BatchNorm",
        "depthwise": f"convolution 8 of depthwise.weight, {NORM.format('group_norm')}; group_norm",
        "grouped": "convolution 6 of grouped.weight, bias grouped.bias, other prelu.weight",
        "plain": "convolution 4 of plain.weight, bias plain.bias",
        **HEAD,
    },
    "ThreeDimensions": {
        "conv": f"convolution 4 of conv.weight, bias conv.bias, {BN.format('norm')}; norm is BatchNorm",
        "grouped": "convolution 6 of grouped.weight, bias grouped.bias",
        **HEAD,
    },
    "Transposed": {  # output channels are the second axis; with groups, a unit is a group
        "up": f"convolution 6 of up.weight@1, bias up.bias, {BN.format('bn')}; bn is BatchNorm",
        "grouped": f"convolution 2 of grouped.weight, bias grouped.bias, {NORM.format('group_norm')}; group_norm",
        "line": "convolution 5 of line.weight@1",
        "volume": "convolution 6 of volume.weight@1, bias volume.bias",
        **HEAD,
    },
    "Perceptron": {
        "first": f"linear 6 of first.weight, bias first.bias, {NORM.format('layer_norm')}; layer_norm",
        "second": f"linear 8 of second.weight, bias second.bias, {BN.format('bn')}; bn is BatchNorm",
        "third": "linear 5 of third.weight; rms_norm",
        "fourth": "linear 7 of fourth.weight, bias fourth.bias, other scale.gamma",
        "mixed": "linear 6 of mixed.weight, bias mixed.bias",
        **HEAD,
    },
    "Fused": FUSED,
    "Chunked": FUSED,
    "ByPosition": FUSED,
    "ByKeyword": FUSED,
    "OneHead": {name: text.replace("attention 2", "attention 1") for name, text in FUSED.items()},
    "HeadFirst": {**PATCHES, "attn.qkv": "attention 2 of attn.qkv.weight, bias attn.qkv.bias", **PROJ, **HEAD},
    "AsManyTokensAsChannels": {"embed": "convolution 8 of embed.weight, bias embed.bias", **QKV, **PROJ, **HEAD},
    "SeparateKeys": {
        **PATCHES,
        "attn.q": "attention 2 of attn.q.weight, bias attn.q.bias",
        "attn.kv.0": "attention 2 of attn.kv.weight[0:8]",
        "attn.kv.1": "attention 2 of attn.kv.weight[8:16]",
        **HEAD,
    },
    "TorchAttention": {
        **PATCHES,
        **{
            f"attn.in_proj_weight.{part}": f"attention 2 of attn.in_proj_weight[{start}:{start + 8}], "
            f"bias attn.in_proj_bias[{start}:{start + 8}]"
            for part, start in (("q", 0), ("k", 8), ("v", 16))
        },
        "attn.out_proj": "linear 8 of attn.out_proj.weight, bias attn.out_proj.bias",
        **{f"cross.{part}_proj_weight": f"attention 2 of cross.{part}_proj_weight" for part in "qkv"},
        "cross.out_proj": "linear 8 of cross.out_proj.weight, bias cross.out_proj.bias",
        **HEAD,
    },
    "SplitWithoutHeads": {**PATCHES, "both": "linear 16 of both.weight, bias both.bias", **HEAD},
    "Vit": {  # neither the class token nor gamma is a site
        "pos_embed": "table 5 of pos_embed@1",
        "patch_embed": "convolution 8 of patch_embed.weight, bias patch_embed.bias",
        "segments": "table 3 of segments.weight",
        **QKV,
        **PROJ,
        "fc1": "linear 12 of fc1.weight, bias fc1.bias",
        "fc2": "linear 8 of fc2.weight, bias fc2.bias",
        **HEAD,
    },
    "ConvNext": {
        "stem": f"convolution 8 of stem.weight, bias stem.bias, {NORM.format('stem_norm')}; stem_norm",
        "conv_dw": f"convolution 8 of conv_dw.weight, bias conv_dw.bias, {NORM.format('norm')}; norm",
        "fc1": "linear 16 of fc1.weight, bias fc1.bias",
        "fc2": "linear 8 of fc2.weight, bias fc2.bias",
        **HEAD,
    },
    "Standardized": {  # relu_ changes the output of `changed` before its norm
        "conv": "convolution 6 of conv.weight, bias conv.bias, other conv.gain, other scale.gamma",
        "changed": "convolution 8 of changed.weight, bias changed.bias",
        **HEAD,
    },
    "Parametrized": {
        "conv": "convolution 8 of conv.parametrizations.weight.original1, bias conv.bias, "
        f"other conv.parametrizations.weight.original0, {BN.format('bn')}; bn is BatchNorm; parametrized",
        "spectral": "convolution 6 of spectral.parametrizations.weight.original; parametrized",
        "head": "linear 10 of head.parametrizations.weight.original1, bias head.bias, "
        "other head.parametrizations.weight.original0; parametrized; output",
    },
    "Tied": {"conv1": f"convolution 8 of conv1.weight, {BN.format('norm2')}; norm2 is BatchNorm", **HEAD},
    "SharedNorm": {
        "second": f"linear 8 of second.weight, bias second.bias, {NORM.format('norm')}; norm",
        "first": "linear 8 of first.weight, bias first.bias; norm",
        **HEAD,
    },
    "Recurrent": {
        "lstm.weight_ih_l0": "table 20 of lstm.weight_ih_l0, bias lstm.bias_ih_l0",
        "lstm.weight_hh_l0": "table 20 of lstm.weight_hh_l0, bias lstm.bias_hh_l0",
        "head": "linear 20 of head.weight, bias head.bias; output",
    },
    "ConvolutionalHead": {
        "stem": f"convolution 8 of stem.weight, bias stem.bias, {BN.format('norm')}; norm is BatchNorm",
        "head": "convolution 10 of head.weight, bias head.bias; output",
    },
    "Tables": {"places": "table 10 of places@1", "shades": "table 4 of shades.weight"},
}
"""Sites of each network under `all`: kind and number of units, the weight and what belongs to it; what else is true.

A part reads `tensor`, `tensor@axis` or `tensor[start:stop]`.
"""


def described(network: nn.Module, site: Site) -> str:
    state = network.state_dict()

    def text(part: Part) -> str:
        is_whole = (part.start, part.length) == (0, state[part.tensor].shape[part.axis])
        is_vector = max(state[part.tensor].shape) == state[part.tensor].numel()
        axis = "" if part.axis == 0 or is_vector else f"@{part.axis}"
        return part.tensor + axis + ("" if is_whole else f"[{part.start}:{part.start + part.length}]")

    parts = [f"{site.kind} {site.num_units} of {text(site.weight)}"]
    parts += [f"{entry.role} {text(entry.part)}" for entry in site.entries]
    facts = [", ".join(parts)]
    if site.norm is not None:
        facts.append(f"{site.norm} is BatchNorm" if site.has_batchnorm else site.norm)
    facts += ["parametrized"] * (not site.is_plain) + ["output"] * site.is_output
    return "; ".join(facts)


@pytest.mark.parametrize("name", NETWORKS)
def test_sites_are_the_expected_ones(name: str) -> None:
    network = site_network(name)
    found = [(site.name, described(network, site)) for site in find_sites(network, SHAPE, name, "all")]
    assert found == list(EXPECTED[name].items())


@pytest.mark.parametrize(
    ("name", "choice", "expected"),
    [
        ("TwoDimensions", "conv_bn", ["stem"]),
        ("TwoDimensions", "auto", list(EXPECTED["TwoDimensions"])),  # conv_bn holds 54 % of the parameters
        ("ConvolutionalHead", "conv_bn", ["stem"]),
        ("ConvolutionalHead", "auto", ["stem"]),  # conv_bn holds 95 %
        ("ConvolutionalHead", "all", ["stem", "head"]),
        ("Transposed", "conv_bn", ["up"]),
        ("Perceptron", "auto", list(EXPECTED["Perceptron"])),
        ("Parametrized", "conv_bn", ["conv"]),
        ("Tied", "conv_bn", ["conv1"]),
    ],
)
def test_choice_of_sites(name: str, choice: SiteChoice, expected: list[str]) -> None:
    assert [site.name for site in find_sites(site_network(name), SHAPE, name, choice)] == expected


@pytest.mark.parametrize(("num_others", "is_conv_bn"), [(1, True), (2, False)])
def test_auto_is_conv_bn_from_a_share_of_nine_tenths(num_others: int, is_conv_bn: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 1, (1, 2)), nn.BatchNorm2d(1), nn.Conv2d(1, num_others, 1, bias=False))
    sites = find_sites(network, SHAPE, "network", "auto")  # 9 of 10 or 11 parameters
    assert [site.name for site in sites] == (["0"] if is_conv_bn else ["0", "2"])


@pytest.mark.parametrize(
    ("name", "choice", "num_own", "num_parameters"),
    [
        # positions, patches, segments, attention, two layers, head; then the class token, gamma and three LayerNorms
        ("Vit", "all", VIT, VIT + 8 + 8 + 3 * 16),
        ("ConvolutionalHead", "conv_bn", 192 * 8 + 3 * 8, 192 * 8 + 3 * 8 + 90),
        ("ConvolutionalHead", "all", 1, 1),  # all of them
        ("Tied", "all", 576 + 2 * 8 + 90, 576 + 4 * 8 + 90 + 32),  # without frozen and the other norm
    ],
)
def test_share_of_parameters_with_an_alpha_of_their_own(
    name: str, choice: SiteChoice, num_own: int, num_parameters: int
) -> None:
    network = site_network(name)
    sites = find_sites(network, SHAPE, name, choice)
    assert alpha_share(network, sites) == pytest.approx(num_own / num_parameters, abs=1e-12)


def test_parts_of_one_matrix_count_once() -> None:
    network = site_network("Fused")
    (query,) = (site for site in find_sites(network, SHAPE, "Fused", "all") if site.name == "attn.qkv.q")
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert alpha_share(network, [query]) == pytest.approx((64 + 8) / num_parameters, abs=1e-12)


def test_frozen_network_has_no_site() -> None:
    network = site_network("TwoDimensions").requires_grad_(False)
    assert find_sites(network, SHAPE, "frozen", "auto", None) == []
    with pytest.raises(ModelError, match=r"^model\.name: 'frozen' has no site, [^\n]+; remove graft$"):
        find_sites(network, SHAPE, "frozen", "all")


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 4, 3, 3)])
def test_weight_without_elements_is_no_site(shape: tuple[int, ...]) -> None:
    network = site_network("TwoDimensions")
    expected = find_sites(network, SHAPE, "whole", "all")
    layer = nn.Linear(1, 3)
    layer.weight = nn.Parameter(torch.empty(shape))
    network.add_module("empty", layer)
    assert find_sites(network, SHAPE, "whole", "all") == expected


@pytest.mark.parametrize("name", ["TwoDimensions", "Vit"])
def test_conv_bn_is_refused_by_its_key_where_there_are_none(name: str) -> None:
    network = site_network(name)
    if name == "TwoDimensions":
        network.bn = nn.GroupNorm(2, 8)
    with pytest.raises(ModelError) as caught:
        find_sites(network, SHAPE, name, "conv_bn", "repr")
    message = str(caught.value)
    assert message.startswith(f"model.name: '{name}' ")
    assert [part for part in ("graft.sites: conv_bn", "graft.sites: all", "remove repr") if part not in message] == []
    assert "\n" not in message
    assert find_sites(network, SHAPE, name, "conv_bn", None) == []


def test_network_of_vectors_alone_is_refused_under_every_choice() -> None:
    network = network_kinds.Vectors(10)
    for choice in ("auto", "all", "conv_bn"):
        with pytest.raises(ModelError, match=r"^model\.name: 'vectors' has no site, [^\n]+ remove diagnostics$"):
            find_sites(network, SHAPE, "vectors", choice, "diagnostics")
        assert find_sites(network, SHAPE, "vectors", choice, None) == []


class Auxiliary(nn.Module):
    """Two more layers run after the one that computes the logits, and nothing uses their outputs."""

    def __init__(self, is_view: bool) -> None:
        super().__init__()
        self.is_view = is_view
        self.classes = nn.Conv2d(3, 10, 8) if is_view else nn.Linear(192, 10)
        self.extra = nn.Linear(192, 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classes(images if self.is_view else images.flatten(1))
        self.extra(images.flatten(1))
        return logits.flatten(1) if self.is_view else logits.clone()


@pytest.mark.parametrize("is_view", [False, True])
def test_output_layer_is_found_by_its_shape_or_its_memory(is_view: bool) -> None:
    sites = find_sites(Auxiliary(is_view), SHAPE, "auxiliary", "all")
    assert [(site.name, site.is_output) for site in sites] == [("classes", True), ("extra", False)]


def test_last_layer_to_run_is_the_output_layer_where_neither_shape_nor_memory_shows_it() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 20), nn.GLU())
    sites = find_sites(network, SHAPE, "halves", "all")
    assert [(site.name, site.is_output) for site in sites] == [("1", False), ("3", True)]


def test_norm_over_another_axis_than_the_channels_does_not_belong_to_the_site() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(6), nn.Flatten(), nn.Linear(144, 10))
    sites = find_sites(network, SHAPE, "rows", "all")
    assert [described(network, site) for site in sites] == [
        "convolution 4 of 0.weight, bias 0.bias",
        "linear 10 of 3.weight, bias 3.bias; output",
    ]


class Windows(nn.Module):
    """Channels of a convolution are split into heads before the places, as in attention over windows of images."""

    def __init__(self, num_parts: int, num_heads: int) -> None:
        super().__init__()
        self.num_parts, self.num_heads = num_parts, num_heads
        self.qkv = nn.Conv2d(3, 4 * num_parts * num_heads, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(images).view(len(images), self.num_parts, self.num_heads, 4, -1)
        return heads.mean((1, 2))[..., :10].mean(1)


@pytest.mark.parametrize(("num_parts", "num_heads"), [(3, 3), (3, 2), (2, 2), (2, 4), (1, 2)])
def test_heads_of_a_convolution_are_found_next_to_as_many_parts(num_parts: int, num_heads: int) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Windows(num_parts, num_heads)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mixed: torch.Tensor = self.attn(images)
            return mixed

    sites = find_sites(Wrapped(), SHAPE, "windows", "all")
    assert [site.name for site in sites] == [
        "attn.qkv" + suffix for suffix in {1: [""], 2: [".0", ".1"], 3: [".q", ".k", ".v"]}[num_parts]
    ]
    assert {(site.kind, site.num_units, site.weight.length) for site in sites} == {
        ("attention", num_heads, 4 * num_heads)
    }
