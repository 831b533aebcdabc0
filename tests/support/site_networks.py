"""Small networks for images (3, 8, 8) and 10 classes, one or more for each kind of site.

Spaces name them `python:site_networks.NAME`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

NUM_TOKENS, WIDTH, NUM_HEADS = 4, 8, 2


class OneDimension(nn.Module):
    """Convolutions over pixels, grouped and not."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 8, 1, bias=False), nn.BatchNorm1d(8)
        self.grouped, self.instance_norm = nn.Conv1d(8, 12, 3, groups=4), nn.InstanceNorm1d(12, affine=True)
        self.head = nn.Linear(12, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.conv(images.flatten(2)))
        logits: Tensor = self.head(self.instance_norm(self.grouped(out)).relu().mean(2))
        return logits


class TwoDimensions(nn.Module):
    """A depthwise and a grouped convolution, GroupNorm, PReLU, and a convolution with nothing behind it."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.group_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.GroupNorm(2, 8)
        self.grouped, self.prelu = nn.Conv2d(8, 6, 1, groups=2), nn.PReLU(6)
        self.plain = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = F.leaky_relu(self.bn(self.stem(images)))
        out = out + F.leaky_relu(self.group_norm(self.depthwise(out)))
        out = self.plain(self.prelu(self.grouped(out)))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


class ThreeDimensions(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, (1, 3, 3)), nn.BatchNorm3d(4)
        self.grouped = nn.Conv3d(4, 6, 1, groups=2)
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.conv(images.unsqueeze(2))).relu()
        logits: Tensor = self.head(self.grouped(out).mean((2, 3, 4)))
        return logits


class Transposed(nn.Module):
    """Transposed convolutions of one to three dimensions, with and without groups and normalization."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.up, self.bn = nn.ConvTranspose2d(3, 6, 2, stride=2), nn.BatchNorm2d(6)
        self.grouped, self.group_norm = nn.ConvTranspose2d(6, 4, 3, groups=2), nn.GroupNorm(1, 4)
        self.line = nn.ConvTranspose1d(4, 5, 2, bias=False)
        self.volume = nn.ConvTranspose3d(5, 6, 1)
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = F.leaky_relu(self.bn(self.up(F.avg_pool2d(images, 4))))
        out = self.group_norm(self.grouped(out)).flatten(2)
        out = self.volume(self.line(out)[..., None, None])
        logits: Tensor = self.head(out.mean((2, 3, 4)))
        return logits


class Perceptron(nn.Module):
    """Linear layers before LayerNorm, BatchNorm, RMSNorm without weights, and a scale per channel."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.first, self.layer_norm = nn.Linear(192, 6), nn.LayerNorm(6)
        self.second, self.bn = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.third, self.rms_norm = nn.Linear(8, 5, bias=False), nn.RMSNorm(5, elementwise_affine=False)
        self.fourth, self.scale = nn.Linear(5, 7), PerChannelScale(7)
        self.mixed = nn.Bilinear(7, 7, 6)
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.layer_norm(self.first(images.flatten(1))).tanh()
        out = self.rms_norm(self.third(self.bn(self.second(out)).tanh())).tanh()
        out = self.scale(self.fourth(out))
        logits: Tensor = self.head(self.mixed(out, out.tanh()))
        return logits


class PerChannelScale(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.gamma


class TokenMixer(nn.Module):
    """Cuts images into 4 tokens of 48 values; a subclass mixes them."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Linear(48, WIDTH)
        self.make_mixer()
        self.head = nn.Linear(WIDTH, num_classes)

    def make_mixer(self) -> None:
        raise NotImplementedError

    def mix(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(F.unfold(images, 4, stride=4).transpose(1, 2))
        logits: Tensor = self.head((tokens + self.mix(tokens)).mean(1))
        return logits


class FusedAttention(nn.Module):
    """Attention whose layer `qkv` is used in one of several layouts.

    Args:
        layout: see `split`.
        num_heads: number of heads.
    """

    def __init__(self, layout: str = "vit", num_heads: int = NUM_HEADS, width: int = WIDTH) -> None:
        super().__init__()
        self.layout, self.num_heads = layout, num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return query, key and value, each (B, H, N, D)."""
        num, length, width = tokens.shape
        heads = (self.num_heads, width // self.num_heads)
        if self.layout == "by position":
            qkv = F.linear(tokens, self.qkv.weight, self.qkv.bias)
        elif self.layout == "by keyword":
            qkv = F.linear(input=tokens, weight=self.qkv.weight, bias=self.qkv.bias)
        else:
            qkv = self.qkv(tokens)
        if self.layout == "head first":
            return qkv.view(num, length, heads[0], 3 * heads[1]).transpose(1, 2).chunk(3, -1)
        if self.layout == "chunked":
            return tuple(part.view(num, length, *heads).transpose(1, 2) for part in qkv.chunk(3, -1))
        return qkv.reshape(num, length, 3, *heads).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.split(tokens)
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(tokens.shape)
        projected: Tensor = self.proj(out)
        return projected


class Fused(TokenMixer):
    layout, num_heads = "vit", NUM_HEADS

    def make_mixer(self) -> None:
        self.attn = FusedAttention(self.layout, self.num_heads)

    def mix(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.attn(tokens)
        return mixed


class HeadFirst(Fused):
    layout = "head first"


class Chunked(Fused):
    layout = "chunked"


class ByPosition(Fused):
    layout = "by position"


class ByKeyword(Fused):
    layout = "by keyword"


class OneHead(Fused):
    num_heads = 1


class AsManyTokensAsChannels(nn.Module):
    """Attention over 12 tokens with 12 channels in each half of `qkv`, so that the batch of 2 looks like heads."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, (2, 3), stride=(2, 2))
        self.attn = FusedAttention()
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.attn(tokens).mean(1))
        return logits


class SeparateKeys(TokenMixer):
    """A layer for the query and one for key and value."""

    def make_mixer(self) -> None:
        self.attn = nn.Module()
        self.attn.num_heads = NUM_HEADS  # type: ignore[assignment]
        self.attn.q, self.attn.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH, bias=False)

    def mix(self, tokens: Tensor) -> Tensor:
        heads: Any = self.attn
        num, length, _ = tokens.shape
        query = heads.q(tokens).reshape(num, length, NUM_HEADS, -1).transpose(1, 2)
        key, value = heads.kv(tokens).reshape(num, length, 2, NUM_HEADS, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(tokens.shape)


class TorchAttention(TokenMixer):
    """Torch's attention, once with one matrix and once with three."""

    def make_mixer(self) -> None:
        self.attn = nn.MultiheadAttention(WIDTH, NUM_HEADS, batch_first=True, add_bias_kv=True)
        self.cross = nn.MultiheadAttention(WIDTH, NUM_HEADS, batch_first=True, kdim=6, vdim=6)

    def mix(self, tokens: Tensor) -> Tensor:
        out, _ = self.attn(tokens, tokens, tokens)
        crossed, _ = self.cross(out, out[..., :6], out[..., 2:])
        mixed: Tensor = crossed
        return mixed


class SplitWithoutHeads(TokenMixer):
    """A layer whose channels are cut into halves, in a module without a number of heads."""

    def make_mixer(self) -> None:
        self.both = nn.Linear(WIDTH, 2 * WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        gate, value = self.both(tokens).unflatten(-1, (2, WIDTH)).unbind(-2)
        gated: Tensor = gate.sigmoid() * value
        return gated


class Vit(nn.Module):
    """A class token, learned positions, an embedding, a convolution into tokens and a pre-norm block."""

    places: Tensor

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, NUM_TOKENS + 1, WIDTH))
        self.patch_embed = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.segments = nn.Embedding(3, WIDTH)
        self.register_buffer("places", torch.tensor([0, 1, 1, 2, 2]))
        self.norm1, self.attn = nn.LayerNorm(WIDTH), FusedAttention()
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1)
        tokens = tokens + self.pos_embed + self.segments(self.places)
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.gamma * self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


class LayerNorm2d(nn.LayerNorm):
    """As in timm: LayerNorm over the channels of images."""

    def forward(self, input: Tensor) -> Tensor:
        normalized: Tensor = super().forward(input.permute(0, 2, 3, 1))
        return normalized.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 2, stride=2), LayerNorm2d(8)
        self.conv_dw, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.5))
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem_norm(self.stem(images))
        inner = self.norm(self.conv_dw(out).permute(0, 2, 3, 1))
        out = out + (self.gamma * self.fc2(F.gelu(self.fc1(inner)))).permute(0, 3, 1, 2)
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


class ScaledStdConv2d(nn.Conv2d):
    """As in timm's NFNets: standardized weights with a gain."""

    def __init__(self, num_in: int, num_out: int, side: int) -> None:
        super().__init__(num_in, num_out, side)
        self.gain = nn.Parameter(torch.ones(num_out, 1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(input, self.gain * (self.weight - mean) / (deviation + 1e-3), self.bias)


class Standardized(nn.Module):
    """Weight standardization, an in-place change before a norm, and a scale of images' channels."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.scale = ScaledStdConv2d(3, 6, 3), PerChannelScale(1, 6, 1, 1)
        self.changed, self.norm = nn.Conv2d(6, 8, 1), nn.GroupNorm(4, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.scale(self.conv(images))
        logits: Tensor = self.head(self.norm(self.changed(out).relu_()).mean((2, 3)))
        return logits


class Parametrized(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.bn = parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)
        self.spectral = parametrizations.spectral_norm(nn.Conv2d(8, 6, 1, bias=False))
        self.head = parametrizations.weight_norm(nn.Linear(6, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        out = self.spectral(self.bn(self.conv(images)).relu())
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


class Tied(nn.Module):
    """Two convolutions with one weight, each with a norm of its own, and a frozen one."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 8, 1).requires_grad_(False)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2.weight = self.conv1.weight
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm1(self.conv1(self.frozen(images))).relu()
        logits: Tensor = self.head(self.norm2(self.conv2(out)).mean((2, 3)))
        return logits


class SharedNorm(nn.Module):
    """One norm consumes the outputs of two layers; it belongs to the first in module order, which runs last."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.second, self.first, self.norm = nn.Linear(8, 8), nn.Linear(192, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.first(images.flatten(1))).tanh()
        logits: Tensor = self.head(self.norm(self.second(out)).tanh())
        return logits


class Recurrent(nn.Module):
    """An LSTM over rows of pixels, whose matrices are tables, and an output that is half of the last layer's."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 5, batch_first=True)
        self.head = nn.Linear(5, 2 * num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out, _ = self.lstm(images.transpose(1, 2).flatten(2))
        return F.glu(self.head(out[:, -1]))


class ConvolutionalHead(nn.Module):
    """The output is a view of the last convolution's."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 8), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.stem(images)).relu()).flatten(1)
        return logits


class Tables(nn.Module):
    """Embeddings of the pixels' shades and their positions, of which a fixed layer makes the classes."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.shades = nn.Embedding(4, num_classes)
        self.places = nn.Parameter(torch.randn(1, num_classes, 2, 2))

    def forward(self, images: Tensor) -> Tensor:
        shades = self.shades((F.avg_pool2d(images[:, 0], 4) > 0).long())
        logits: Tensor = (shades.permute(0, 3, 1, 2) * (1.0 + self.places)).mean((2, 3))
        return logits


NETWORKS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    kind.__name__: kind
    for kind in (
        OneDimension,
        TwoDimensions,
        ThreeDimensions,
        Transposed,
        Perceptron,
        Fused,
        HeadFirst,
        Chunked,
        ByPosition,
        ByKeyword,
        OneHead,
        AsManyTokensAsChannels,
        SeparateKeys,
        TorchAttention,
        SplitWithoutHeads,
        Vit,
        ConvNext,
        Standardized,
        Parametrized,
        Tied,
        SharedNorm,
        Recurrent,
        ConvolutionalHead,
        Tables,
    )
}


def site_network(name: str, seed: int = 0) -> nn.Module:
    """Return a network of `NETWORKS` in which every floating-point entry is random, variances positive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[name]()
        for key, tensor in network.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                added = torch.rand_like(tensor) if key.endswith("running_var") else 0.1 * torch.randn_like(tensor)
                tensor.data.add_(added)
    return network
