"""Query, key and value are split by head wherever a layer's output is, and nothing else is."""

import pytest
import torch
from torch import Tensor, nn

from graftpop.sites import Site, find_sites

SIDE, CHANNELS, HEADS = 4, 16, 4


class Split(nn.Module):
    """One layer, with a normalization or none, whose output (B, 48, 4, 4) is reshaped."""

    def __init__(self, layer: nn.Module, norm: nn.Module, *shape: int, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads, self.shape = num_heads, shape
        self.qkv = nn.Sequential(layer, norm)

    def forward(self, images: Tensor) -> Tensor:
        images = images if isinstance(self.qkv[0], nn.Conv2d) else images.movedim(1, -1)
        return self.qkv(images).reshape(self.shape).flatten(1)[:, :10]


class Chunked(Split):
    """The output is cut into query, key and value, and the heads go into the batch."""

    def forward(self, images: Tensor) -> Tensor:
        query, key, value = self.qkv(images).chunk(3, dim=1)
        query = query.reshape(len(images) * HEADS, CHANNELS // HEADS, SIDE**2)
        return (query @ query.mT).reshape(len(images), -1)[:, :10] + key.mean() + value.mean()


def conv() -> nn.Module:
    return nn.Conv2d(3, 3 * CHANNELS, 1)


def linear() -> nn.Module:
    return nn.Linear(3, 3 * CHANNELS)


def sites_of(network: nn.Module) -> list[Site]:
    with torch.device("meta"):
        return find_sites(network.to("meta"), (3, SIDE, SIDE), "split", "all")


@pytest.mark.parametrize(
    "network",
    [
        Split(linear(), nn.Identity(), -1, SIDE**2, 3, HEADS, 4),
        Split(linear(), nn.Identity(), -1, 2, 2, SIDE, 3, HEADS, 4),  # windows, with as many axes as before
        Split(conv(), nn.Identity(), -1, 3, HEADS, 4, SIDE**2),
        Split(conv(), nn.GroupNorm(2, 48), -1, 3, HEADS, 4, SIDE**2),
        Chunked(conv(), nn.Identity()),
    ],
    ids=["linear", "windows", "convolution", "normalized", "in the batch"],
)
def test_query_key_and_value_are_split_by_head(network: nn.Module) -> None:
    sites = sites_of(network)
    assert [(site.name, site.kind, site.num_units) for site in sites] == [
        (f"qkv.0.{part}", "attention", HEADS) for part in "qkv"
    ]
    assert [site.weight[2:] for site in sites] == [(0, CHANNELS), (CHANNELS, CHANNELS), (2 * CHANNELS, CHANNELS)]


def test_head_with_its_query_key_and_value_side_by_side_is_one_unit() -> None:
    (site,) = sites_of(Split(conv(), nn.Identity(), -1, HEADS, 3 * CHANNELS // HEADS, SIDE**2))
    assert (site.name, site.kind, site.num_units) == ("qkv.0", "attention", HEADS)


def test_heads_of_a_linear_layer_show_after_its_batchnorm() -> None:
    class Normalized(Split):
        def forward(self, images: Tensor) -> Tensor:
            layer, norm = self.qkv
            rows = layer(images.movedim(1, -1).flatten(1, 2))
            rows = norm(rows.flatten(0, 1)).reshape_as(rows)
            return rows.view(len(images), SIDE**2, HEADS, -1).flatten(1)[:, :10]

    (site,) = sites_of(Normalized(linear(), nn.BatchNorm1d(48)))
    assert (site.kind, site.num_units, site.norm, len(site.entries)) == ("attention", HEADS, "qkv.1", 5)


@pytest.mark.parametrize(
    "network",
    [
        Split(linear(), nn.Identity(), -1, 2, 2, HEADS, 48),  # windows as long as there are heads
        Split(nn.Linear(3, 32), nn.Identity(), -1, 4, HEADS, 2, 32),  # windows with as many elements as channels
        Split(nn.Linear(3, 48), nn.Identity(), -1, SIDE**2, 48, num_heads=48),  # a bias per head
        Split(conv(), nn.Identity(), -1, 48, SIDE**2, num_heads=1),
        Split(conv(), nn.BatchNorm2d(48), -1, 3, HEADS, 4, SIDE**2),  # a site of the papers
    ],
    ids=["windows", "windows of as many elements", "one channel each", "single head", "convolution and BatchNorm"],
)
def test_other_layers_are_split_by_channel(network: nn.Module) -> None:
    (site,) = sites_of(network)
    assert site.kind != "attention"
    assert site.num_units == site.weight.length
