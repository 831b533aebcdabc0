"""The section of the augmentation of training images, beyond the random crops and mirroring of `data`."""

from typing import Annotated, Final, Literal

from pydantic import Field

from graftpop.settings.section import Count, NotNegative, OnlyWith, Section, Share

__all__ = ["AugmentationSettings", "NO_AUGMENTATION"]

RANDAUGMENT: Final = OnlyWith("augmentation.policy", ("randaugment",))
AUTOAUGMENT: Final = OnlyWith("augmentation.policy", ("autoaugment",))


class AugmentationSettings(Section):
    """Augmentation of training images after data.crop_padding and data.flip: policy, color_jitter, erasing, mixing."""

    policy: Literal["none", "autoaugment", "randaugment", "trivialaugment"] = "none"
    """Random operations on each image, such as rotation or contrast. autoaugment: pairs of operations with learned
    probabilities and magnitudes. randaugment: num_ops operations of one magnitude. trivialaugment: one operation of a
    random magnitude."""

    learned_on: Annotated[Literal["cifar10", "imagenet", "svhn"], AUTOAUGMENT] = "cifar10"
    """Data set on which the policy of autoaugment was learned."""

    num_ops: Annotated[Count, RANDAUGMENT] = 2
    """Number of operations per image, one after the other."""

    magnitude: Annotated[int, Field(ge=0, le=30), RANDAUGMENT] = 9
    """Magnitude of all operations; 30 is the strongest, such as a rotation by 30 degrees."""

    color_jitter: NotNegative = 0.0
    """Strength s of random changes of each image's brightness, contrast and saturation, by factors from max(0, 1 - s)
    to 1 + s. 0: none; timm's default is 0.4."""

    erasing: Share = 0.0
    """Probability that a random rectangle of an image, 2 % to 33 % of its area, is set to the data set's mean color."""

    mixup: NotNegative = 0.0
    """alpha of mixup: the images and labels of each batch are mixed in pairs, l : 1 - l, with l from Beta(alpha,
    alpha). 0: no mixup; an alpha smaller than 0.01 counts as 0.01."""

    cutmix: NotNegative = 0.0
    """alpha of CutMix: a rectangle of each image, with a share 1 - l of its area, comes from another image, and the
    same share of its label; l is from Beta(alpha, alpha). 0: no CutMix. With mixup, each batch gets one of the two."""

    mix_probability: Share = 1.0
    """Probability that a batch is mixed by mixup or CutMix."""


NO_AUGMENTATION: Final = AugmentationSettings()
