"""Random operations on batches of pixels, drawn for each image: AutoAugment and its successors, and color jitter.

Images that drew the same operation are changed together, which takes less time than torchvision's transforms of single
images. The operations and their magnitudes are torchvision's.

References:
    Cubuk et al., AutoAugment, CVPR 2019; Cubuk et al., RandAugment, NeurIPS 2020; Müller and Hutter, TrivialAugment,
    ICCV 2021; `torchvision.transforms.v2`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from graftpop.seeds import derive
from graftpop.settings import AugmentationSettings

__all__ = ["apply_operations", "draw_operations", "jitter_colors", "policy_of", "varied"]

Operation = tuple[str, float]
"""Name and magnitude of an operation; the magnitude is in degrees, pixels, bits, or a share of the maximum."""

Policy = Sequence[Sequence[Sequence[Operation]]]
"""Sub-policies, each a list of stages, each a list of operations.

One sub-policy is drawn for each image, and one operation from each of its stages.
"""

Batches = Iterator[tuple[Tensor, Tensor]]

SIGNED: Final = (
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
)
OPERATIONS: Final = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")
"""The operations of RandAugment and TrivialAugment. AutoAugment also has Invert."""

NUM_BINS: Final = {"autoaugment": 10, "randaugment": 31, "trivialaugment": 31}
TRANSLATION: Final = 150 / 331
"""Largest shift as a share of the side: AutoAugment's 150 pixels of 331."""


def varied(
    batches: Batches, augmentation: AugmentationSettings, num_images: int, size: tuple[int, int], seed: int
) -> Batches:
    """Return batches whose images are changed by a policy and color jitter; the same iterator if both are off.

    The changes of an image are a function of the seed and of its place in the epoch.

    Args:
        batches: pixels uint8 (B, 3, H, W) with targets.
        augmentation: only `policy`, with the keys that belong to it, and `color_jitter` are used.
        num_images: images of the epoch.
        size: height and width of the images, in pixels.
        seed: the epoch's seed.
    """
    if augmentation.policy != "none":
        generator = torch.Generator().manual_seed(derive(seed, "augmentation.policy"))
        operations, drawn = draw_operations(policy_of(augmentation, *size), num_images, generator)
        batches = _with_operations(batches, operations, drawn)
    if augmentation.color_jitter > 0:
        generator = torch.Generator().manual_seed(derive(seed, "augmentation.color_jitter"))
        lowest, highest = max(0.0, 1 - augmentation.color_jitter), 1 + augmentation.color_jitter
        factors = torch.empty(3, num_images).uniform_(lowest, highest, generator=generator)
        order = torch.rand(3, num_images, generator=generator).argsort(0)
        batches = _with_jitter(batches, factors, order)
    return batches


def _with_operations(batches: Batches, operations: Sequence[Operation], drawn: Tensor) -> Batches:
    start = 0
    for pixels, targets in batches:
        yield apply_operations(pixels, operations, drawn[:, start : start + len(pixels)]), targets
        start += len(pixels)


def _with_jitter(batches: Batches, factors: Tensor, order: Tensor) -> Batches:
    start = 0
    for pixels, targets in batches:
        these = slice(start, start + len(pixels))
        yield jitter_colors(pixels, factors[:, these], order[:, these]), targets
        start += len(pixels)


def policy_of(augmentation: AugmentationSettings, height: int, width: int) -> Policy:
    """Return the policy of the settings for images of a size; all stages list equally many operations.

    Args:
        augmentation: its policy is not none.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
    """
    magnitudes = _magnitudes(augmentation.policy, height, width)
    if augmentation.policy == "autoaugment":
        return [[_learned_stage(magnitudes, *step) for step in pair] for pair in _learned(augmentation.learned_on)]
    bins = [augmentation.magnitude] if augmentation.policy == "randaugment" else range(NUM_BINS[augmentation.policy])
    stage = [operation for name in OPERATIONS for bin in bins for operation in _signed(name, magnitudes[name][bin])]
    return [[stage] * (augmentation.num_ops if augmentation.policy == "randaugment" else 1)]


def _magnitudes(policy: str, height: int, width: int) -> Mapping[str, list[float]]:
    """Return the magnitudes of every operation, from weak to strong."""
    num_bins, is_wide = NUM_BINS[policy], policy == "trivialaugment"
    most = dict.fromkeys(SIGNED, 0.99 if is_wide else 0.9)
    most |= dict.fromkeys(("ShearX", "ShearY"), 0.99 if is_wide else 0.3)
    most |= {"TranslateX": 32.0 if is_wide else TRANSLATION * width}
    most |= {"TranslateY": 32.0 if is_wide else TRANSLATION * height}
    most |= {"Rotate": 135.0 if is_wide else 30.0}
    lost_bits = 6 if is_wide else 4
    return {
        **dict.fromkeys(("Identity", "AutoContrast", "Equalize", "Invert"), [0.0] * num_bins),
        **{name: torch.linspace(0.0, value, num_bins).tolist() for name, value in most.items()},
        "Posterize": [float(round(8 - lost_bits * bin / (num_bins - 1))) for bin in range(num_bins)],
        "Solarize": torch.linspace(1.0, 0.0, num_bins).tolist(),
    }


def _signed(name: str, magnitude: float) -> list[Operation]:
    """Return an operation with both signs, or twice if it has none, so that all operations are equally likely."""
    return [(name, magnitude), (name, -magnitude if name in SIGNED else magnitude)]


def _learned(data_set: str) -> Sequence[Sequence[tuple[str, float, int | None]]]:
    """Return the sub-policies of AutoAugment: pairs of (operation, probability, magnitude's bin)."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    policies: Sequence[Sequence[tuple[str, float, int | None]]] = AutoAugment(AutoAugmentPolicy(data_set)).policies
    return policies


def _learned_stage(
    magnitudes: Mapping[str, list[float]], name: str, probability: float, bin: int | None
) -> list[Operation]:
    tenths = round(10 * probability)  # AutoAugment searches probabilities in steps of a tenth
    return tenths * _signed(name, magnitudes[name][bin or 0]) + (10 - tenths) * _signed("Identity", 0.0)


def draw_operations(policy: Policy, num_images: int, generator: torch.Generator) -> tuple[Sequence[Operation], Tensor]:
    """Return a policy's distinct operations, and the positions in this list for each image, int64 (stages, num_images).

    Args:
        policy: see `policy_of`.
        num_images: number of images.
        generator: source of the random numbers.
    """
    operations = list(dict.fromkeys(operation for stages in policy for stage in stages for operation in stage))
    position = {operation: number for number, operation in enumerate(operations)}
    table = torch.tensor([[[position[operation] for operation in stage] for stage in stages] for stages in policy])
    num_policies, num_stages, num_choices = table.shape
    drawn = torch.randint(num_policies, (num_images,), generator=generator)
    choices = torch.randint(num_choices, (num_stages, num_images), generator=generator)
    return operations, table[drawn, torch.arange(num_stages)[:, None], choices]


def apply_operations(pixels: Tensor, operations: Sequence[Operation], drawn: Tensor) -> Tensor:
    """Return images changed by their operations, one stage after the other.

    Args:
        pixels: uint8 (B, 3, H, W).
        operations: name and magnitude of each operation.
        drawn: int64 (stages, B), on the CPU: positions in `operations`.

    Returns:
        uint8 (B, 3, H, W); black where an image has no pixels.
    """
    pixels = pixels.contiguous()  # each operation acts on the planes of the colors
    for numbers in drawn:
        order = numbers.argsort()
        present, counts = numbers.unique(return_counts=True)
        groups = pixels.index_select(0, order.to(pixels.device, non_blocking=True)).split(counts.tolist())
        changed = [_apply(group, *operations[number]) for group, number in zip(groups, present.tolist(), strict=True)]
        pixels = torch.cat(changed).index_select(0, order.argsort().to(pixels.device, non_blocking=True))
    return pixels


def _apply(pixels: Tensor, name: str, magnitude: float) -> Tensor:
    """Return images changed by one operation, as torchvision's policies define it."""
    from torchvision.transforms.v2 import functional

    changed: Tensor = pixels
    affine = partial(functional.affine, pixels, angle=0.0, scale=1.0)
    shear = math.degrees(math.atan(magnitude))
    match name:
        case "ShearX":
            changed = affine(translate=[0, 0], shear=[shear, 0.0], center=[0.0, 0.0])
        case "ShearY":
            changed = affine(translate=[0, 0], shear=[0.0, shear], center=[0.0, 0.0])
        case "TranslateX":
            changed = affine(translate=[int(magnitude), 0], shear=[0.0, 0.0])
        case "TranslateY":
            changed = affine(translate=[0, int(magnitude)], shear=[0.0, 0.0])
        case "Rotate":
            changed = functional.rotate(pixels, magnitude)
        case "Brightness":
            changed = functional.adjust_brightness(pixels, 1 + magnitude)
        case "Color":
            changed = functional.adjust_saturation(pixels, 1 + magnitude)
        case "Contrast":
            changed = functional.adjust_contrast(pixels, 1 + magnitude)
        case "Sharpness":
            changed = functional.adjust_sharpness(pixels, 1 + magnitude)
        case "Posterize":
            changed = functional.posterize(pixels, int(magnitude))
        case "Solarize":
            changed = functional.solarize(pixels, 255 * magnitude)
        case "AutoContrast":
            changed = functional.autocontrast(pixels)
        case "Equalize":
            changed = functional.equalize(pixels)
        case "Invert":
            changed = functional.invert(pixels)
    return changed


def jitter_colors(pixels: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Return images with changed brightness, contrast and saturation, as by torchvision's `ColorJitter`.

    Each change is `factor * pixels + (1 - factor) * other`, rounded down, where `other` is black for the brightness,
    the mean gray of the image for the contrast, and its gray image for the saturation.

    Args:
        pixels: uint8 (B, 3, H, W).
        factors: float32 (3, B), the factors of brightness, contrast and saturation.
        order: int64 (3, B), the changes of each image in their order: 0 brightness, 1 contrast, 2 saturation.
    """
    pixels = pixels.contiguous()
    factors, order = (drawn.to(pixels.device, non_blocking=True) for drawn in (factors, order))
    for change in order:
        factor, kind = (part.view(-1, 1, 1, 1) for part in (factors.gather(0, change[None]), change))
        red, green, blue = pixels.split(1, dim=1)
        gray = (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
        other = torch.where(kind == 2, gray, gray.mean((1, 2, 3), keepdim=True) * (kind == 1))
        pixels = (pixels * factor).addcmul_(other, 1 - factor).clamp_(0, 255).to(torch.uint8)
    return pixels
