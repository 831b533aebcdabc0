"""Networks of many kinds for images (3, 8, 8): some that a peer trains, and some that are refused.

Spaces name them `python:network_kinds.NAME`.
"""

import warnings
from typing import Any, ClassVar

import torch
from network_makers import TwoSites
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune


class ConvNorm(nn.Module):
    """A residual network with GroupNorm: no convolution with BatchNorm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images)
        out = out + torch.relu(self.norm(self.conv(out)))
        logits: Tensor = self.classifier(out.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """A small vision transformer: no convolution, but dropout, and integers in its state."""

    position: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Linear(48, 16)
        self.places = nn.Embedding(4, 16)
        self.register_buffer("position", torch.arange(4))
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.unfold(images, 4, stride=4).transpose(1, 2)
        tokens = self.mix(self.patches(patches) + self.places(self.position))
        logits: Tensor = self.classifier(tokens.mean(1))
        return logits


class Vectors(nn.Module):
    """Trains scale and shift of fixed features: no weight with two axes, so no site."""

    features: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.linspace(0.0, 99.0, 192 * num_classes).sin().view(192, num_classes))
        self.scale, self.shift = nn.Parameter(torch.randn(num_classes)), nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.features * self.scale + self.shift


class WeightNorm(TwoSites):
    """The weight of a convolution and that of the classifier have their norms as parameters."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        parametrizations.weight_norm(self.conv2)
        parametrizations.weight_norm(self.classifier)


class SpectralNorm(ConvNorm):
    """No BatchNorm, and weights divided by estimates of their spectral norms."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        parametrizations.spectral_norm(self.conv)
        parametrizations.spectral_norm(self.classifier)


class TiedConvolutions(nn.Module):
    """Two convolutions with one weight, and a BatchNorm behind each."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2.weight = self.conv1.weight
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(self.stem(images))))
        out = torch.relu(self.bn2(self.conv2(out)))
        logits: Tensor = self.classifier(out.mean((2, 3)))
        return logits


class OldWeightNorm(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(self.conv2)


class OldSpectralNorm(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.utils.spectral_norm(self.conv2)


class Pruned(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        prune.l1_unstructured(self.conv2, "weight", 0.5)


class SyncNorm(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.bn2 = nn.SyncBatchNorm(16)  # type: ignore[assignment]


class Lazy(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv2 = nn.LazyConv2d(16, 3)
        self.classifier = nn.LazyLinear(num_classes)


class Compiled(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv2 = torch.compile(self.conv2)  # type: ignore[assignment]


class CompiledInPlace(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv2.compile()


class Scripted(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.conv2 = torch.jit.script(self.conv2)  # type: ignore[assignment]


class Half(TwoSites):
    """Takes float32 images, but has its parameters in bfloat16."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.bfloat16()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.bfloat16()).float()


class DoubleBuffer(TwoSites):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("scale", torch.ones(1, dtype=torch.float64))


class ExtraState(TwoSites):
    def get_extra_state(self) -> Any:
        return {"step": 1}

    def set_extra_state(self, state: Any) -> None:
        del state


class SharedMemory(TwoSites):
    """Two parameters that are views of one memory."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = nn.Parameter(self.encode.weight.detach().t())


class Uncopyable(TwoSites):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("one of a kind")


class Slow(TwoSites):
    """Takes a millisecond per image, twice as long in the first batch, on a clock of its own."""

    now: ClassVar[float] = 0.0
    sizes: ClassVar[list[int]] = []

    def forward(self, images: Tensor) -> Tensor:
        Slow.now += 1e-3 * len(images) * (1 if self.sizes else 2)
        self.sizes.append(len(images))
        return super().forward(images)


class FailsInTraining(TwoSites):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise ArithmeticError("no gradient")
        return super().forward(images)
