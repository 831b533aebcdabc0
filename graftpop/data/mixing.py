"""Random erasing of normalized images, and mixup and CutMix, which mix the images and targets of a batch.

References:
    Zhong et al., Random Erasing Data Augmentation, AAAI 2020; Zhang et al., mixup: Beyond Empirical Risk Minimization,
    ICLR 2018; Yun et al., CutMix, ICCV 2019.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from graftpop.data.images import Images
from graftpop.seeds import derive, seeded
from graftpop.settings import AugmentationSettings

__all__ = ["draw_boxes", "erase", "MixedImages", "with_mixing"]

Batches = Iterator[tuple[Tensor, Tensor]]

AREAS: Final = (0.02, 0.33)  # shares of the image, as in torchvision's RandomErasing
RATIOS: Final = (0.3, 3.3)  # height / width
TRIES: Final = 10
LEAST_ALPHA: Final = 0.01
"""Below it many of torch's samples from Beta are 1/2, since both of its gamma samples underflow to 0."""


def with_mixing(images: Images, augmentation: AugmentationSettings, num_classes: int) -> Images:
    """Return a split whose training batches are erased and mixed; the same split if neither is set.

    Args:
        images: the split.
        augmentation: only `erasing`, `mixup`, `cutmix` and `mix_probability` are used.
        num_classes: number of classes.
    """
    is_on = max(augmentation.erasing, augmentation.mixup, augmentation.cutmix) > 0
    return MixedImages(images, augmentation, num_classes) if is_on else images


@dataclass(frozen=True, eq=False)
class MixedImages:
    """A split whose normalized training images are erased and mixed; see `with_mixing`.

    With mixup or CutMix the targets of training are probabilities, float32 (B, num_classes).
    """

    images: Images
    augmentation: AugmentationSettings
    num_classes: int

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return self.images.num_images

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Batches:
        """Yield the split's training batches, erased and mixed; see `Images`."""
        batches = self.images.training_batches(batch_size, seed, device)
        if self.augmentation.erasing > 0:
            batches = self._erased(batches, batch_size, seed)
        if max(self.augmentation.mixup, self.augmentation.cutmix) > 0:
            batches = self._mixed(batches, seed)
        return batches

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Batches:
        """Yield the split's own batches; see `Images`."""
        return self.images.evaluation_batches(batch_size, device)

    def _erased(self, batches: Batches, batch_size: int, seed: int) -> Batches:
        generator = torch.Generator().manual_seed(derive(seed, "augmentation.erasing"))
        boxes, start = torch.empty(0), 0
        for images, targets in batches:
            if start == 0:
                height, width = images.shape[2:]
                num_images = -(-self.num_images // batch_size) * batch_size  # the last batch of recognition is full
                boxes = draw_boxes(num_images, height, width, self.augmentation.erasing, generator)
            yield erase(images, boxes[:, start : start + len(images)]), targets
            start += len(images)

    def _mixed(self, batches: Batches, seed: int) -> Batches:
        from torchvision.transforms.v2 import CutMix, MixUp

        kinds = ((MixUp, self.augmentation.mixup), (CutMix, self.augmentation.cutmix))
        mixers = [kind(alpha=max(alpha, LEAST_ALPHA), num_classes=self.num_classes) for kind, alpha in kinds if alpha]
        for batch, (images, targets) in enumerate(batches):
            targets = functional.one_hot(targets, self.num_classes).float()
            # torchvision draws from the global generator, also on the CPU for images on another device
            with seeded(derive(seed, "augmentation.mixing", batch), torch.device("cpu")):
                mixer = mixers[int(torch.randint(len(mixers), ()))]
                if float(torch.rand(())) < self.augmentation.mix_probability:
                    images, targets = mixer(images, targets)
            yield images, targets


def draw_boxes(num_images: int, height: int, width: int, probability: float, generator: torch.Generator) -> Tensor:
    """Return a random rectangle inside each image, int64 (4, num_images): top, left, height and width.

    The area is uniform in AREAS, the aspect ratio log-uniform in RATIOS. The rectangle is the first of ten draws that
    is smaller than the image in both directions. It is empty with probability 1 - `probability`, or if no draw fits.

    Args:
        num_images: number of images.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        probability: probability of a rectangle.
        generator: source of the random numbers.
    """
    areas = height * width * torch.empty(TRIES, num_images).uniform_(*AREAS, generator=generator)
    ratios = torch.empty(TRIES, num_images).uniform_(*map(math.log, RATIOS), generator=generator).exp()
    heights, widths = (areas * ratios).sqrt().round().long(), (areas / ratios).sqrt().round().long()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(0, keepdim=True)
    is_erased = fits.any(0) & (torch.rand(num_images, generator=generator) < probability)
    box_height, box_width = (sides.gather(0, first)[0] * is_erased for sides in (heights, widths))
    top = (torch.rand(num_images, generator=generator) * (height - box_height + 1)).long()
    left = (torch.rand(num_images, generator=generator) * (width - box_width + 1)).long()
    return torch.stack((top, left, box_height, box_width))


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Return images that are 0 inside their rectangles, the mean color of the normalized data set.

    Args:
        images: (B, C, H, W).
        boxes: int64 (4, B), see `draw_boxes`.
    """
    top, left, height, width = boxes.to(images.device, non_blocking=True)[..., None, None]
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    inside = (top <= rows[:, None]) & (rows[:, None] < top + height) & (left <= columns) & (columns < left + width)
    return images.masked_fill(inside[:, None], 0.0)
