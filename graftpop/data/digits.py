"""scikit-learn's digits: 1,797 real 8 x 8 images, small enough to try anything within seconds.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from typing import Final

import numpy as np
import torch

from graftpop.data.source import Contents, Part, Source
from graftpop.data.stratified_split import stratified_rows
from graftpop.settings import DataSettings

__all__ = ["find_digits"]

TEST_FRACTION: Final = 0.2
TEST_SEED: Final = 0  # the test set is the same in every study


def find_digits(data: DataSettings) -> Source:
    """Return the digits, which ship with scikit-learn; their test split, a fifth, is cut here."""
    del data
    return Source("digits", (), _open, flip=False)


def _open() -> Contents:
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pixels, labels = np.repeat(gray[..., None], 3, axis=3), digits.target.astype(np.int64)
    test, train = stratified_rows(
        torch.from_numpy(labels), round(TEST_FRACTION * len(labels)), torch.Generator().manual_seed(TEST_SEED)
    )
    parts = {
        name: Part(len(rows), iter([(pixels[rows], labels[rows])]))
        for name, rows in (("train", train.numpy()), ("test", test.numpy()))
    }
    return Contents(tuple(str(digit) for digit in range(10)), 8, 8, parts)
