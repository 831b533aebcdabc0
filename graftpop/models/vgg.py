"""VGG-16 for small images.

Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556,
configuration D, in the CIFAR form: BatchNorm after every convolution, which keeps its bias as in the paper, and one
linear layer instead of three. The five poolings need images of at least 32x32.
"""

from typing import Final

from torch import Tensor, nn

from graftpop.models.layers import pixel_mean

__all__ = ["VGG16"]

STAGES: Final = (
    (1, 1),
    (2, 2),
    (4, 4, 4),
    (8, 8, 8),
    (8, 8, 8),
)  # widths, relative to the first; each stage ends in a pooling


class VGG16(nn.Module):
    """VGG-16 with BatchNorm.

    Glorot's uniform initialization, biases zero: the one that section 3.1 of the paper recommends without pre-training.

    Args:
        num_classes: logits per image.
        width: filters of the first convolution; those of the others are in proportion.
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        num_inputs = 3
        for widths in STAGES:
            for num_filters in (width * relative for relative in widths):
                modules += [
                    nn.Conv2d(num_inputs, num_filters, 3, padding=1),
                    nn.BatchNorm2d(num_filters),
                    nn.ReLU(inplace=True),
                ]
                num_inputs = num_filters
            modules.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Linear(num_inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), of images, (N, 3, H, W)."""
        logits: Tensor = self.classifier(pixel_mean(self.features(images)))
        return logits
