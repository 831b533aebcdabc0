"""Label noise: training labels replaced by wrong ones."""

import torch
from torch import Tensor

from graftpop.seeds import derive

__all__ = ["with_label_noise"]


def with_label_noise(labels: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Return labels with a share of wrong ones; each wrong label is one of the other classes, all equally likely.

    Args:
        labels: int64 (N,), in [0, num_classes).
        num_classes: number of classes, at least 2.
        share: share of the labels that change, in [0, 1); their number is N * share, rounded.
        seed: chooses the labels that change and their new classes.
    """
    num_wrong = round(share * len(labels))
    generator = torch.Generator().manual_seed(derive(seed, "label_noise"))
    rows = torch.randperm(len(labels), generator=generator)[:num_wrong]
    shift = torch.randint(1, num_classes, (num_wrong,), generator=generator)
    noisy = labels.clone()
    noisy[rows] = (labels[rows] + shift) % num_classes
    return noisy
