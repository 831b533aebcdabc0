"""Crops, mirroring and normalization, against slow references and torchvision."""

import math
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional

from graftpop.data.augment import Recipe, crop_and_flip, normalize, random_crop_box

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Pixels, rows, columns, and whether each image is mirrored."""
RECIPE = Recipe((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 4, True)


def random_batch(batch: int, height: int, width: int, padding: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    dy, dx = torch.randint(2 * padding + 1, (2, batch), generator=generator)
    return pixels, dy, dx, torch.rand(batch, generator=generator) < 0.5


def slow_crop_and_flip(pixels: Tensor, dy: Tensor, dx: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    out = torch.zeros_like(pixels)
    batch, _, height, width = pixels.shape
    for image in range(batch):
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if mirrored[image] else x
                from_y, from_x = y + int(dy[image]) - padding, column + int(dx[image]) - padding
                if 0 <= from_y < height and 0 <= from_x < width:
                    out[image, :, y, x] = pixels[image, :, from_y, from_x]
    return out


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 1), (5, 9, 3), (9, 5, 5), (6, 6, 0)])
def test_crop_and_flip_equals_a_loop_over_pixels(height: int, width: int, padding: int) -> None:
    batch = random_batch(12, height, width, padding)
    assert torch.equal(crop_and_flip(*batch, padding), slow_crop_and_flip(*batch, padding))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_crop_and_flip_equals_torchvision(memory_format: torch.memory_format) -> None:
    pixels, dy, dx, mirrored = random_batch(40, 32, 32, 4)
    cropped = crop_and_flip(pixels.contiguous(memory_format=memory_format), dy, dx, mirrored, 4)
    for image in range(40):
        expected = functional.crop(functional.pad(pixels[image], [4]), int(dy[image]), int(dx[image]), 32, 32)
        assert torch.equal(cropped[image], functional.hflip(expected) if mirrored[image] else expected)


def test_center_crop_without_mirroring_is_the_image() -> None:
    pixels, *_ = random_batch(5, 8, 8, 2)
    middle = torch.full((5,), 2)
    assert torch.equal(crop_and_flip(pixels, middle, middle, torch.zeros(5, dtype=torch.bool), 2), pixels)


def test_crop_and_flip_does_not_change_its_arguments() -> None:
    batch = random_batch(5, 8, 8, 2)
    before = [part.clone() for part in batch]
    crop_and_flip(*batch, 2)
    assert all(map(torch.equal, batch, before))


def test_normalize_equals_torchvision() -> None:
    pixels, *_ = random_batch(16, 32, 20, 0)
    normalized = normalize(pixels, RECIPE)
    expected = functional.normalize(pixels.float() / 255, list(RECIPE.mean), list(RECIPE.std))
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized, expected, rtol=1e-6, atol=2e-6)


def test_augmented_batches_have_channels_last_in_memory() -> None:
    out = normalize(crop_and_flip(*random_batch(4, 8, 8, 1), 1), RECIPE)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_normalize_in_inference_mode_does_not_break_training_afterwards() -> None:
    pixels, *_ = random_batch(4, 7, 7, 0)
    with torch.inference_mode():
        inferred = normalize(pixels, RECIPE)
    weight = torch.ones(2, 3, 3, 3, requires_grad=True)
    torch.nn.functional.conv2d(normalize(pixels, RECIPE), weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(inferred, normalize(pixels, RECIPE))


@settings(deadline=None, derandomize=True)
@given(height=st.integers(1, 600), width=st.integers(1, 600), seed=st.integers(0, 2**63 - 1))
def test_random_box_is_inside_its_image(height: int, width: int, seed: int) -> None:
    top, left, box_height, box_width = random_crop_box(height, width, np.random.default_rng(seed))
    assert 0 <= top < top + box_height <= height
    assert 0 <= left < left + box_width <= width


def test_random_boxes_have_the_recipes_areas_and_ratios() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop_box(400, 400, generator) for _ in range(4000)])
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 400**2, boxes[:, 3] / boxes[:, 2]
    assert 0.078 < areas.min() < 0.1
    assert 0.98 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.76
    assert 1.32 < ratios.max() < 1.35
    assert abs(np.median(np.log(ratios))) < 0.02


class ScriptedGenerator:
    """Replaces a numpy generator: always the same area and ratio, and the last possible place."""

    def __init__(self, area: float, ratio: float) -> None:
        self.area, self.log_ratio = area, math.log(ratio)
        self.num_uniform_draws = 0

    def uniform(self, low: float, high: float) -> float:
        self.num_uniform_draws += 1
        value = self.area if high == 1.0 else self.log_ratio
        assert low - 1e-9 <= value <= high + 1e-9
        return value

    def integers(self, high: int) -> int:
        return high - 1


@pytest.mark.parametrize(
    ("height", "width", "area", "ratio", "box"),
    [
        (40, 40, 0.25, 1.0, (20, 20, 20, 20)),
        (40, 40, 1.0, 1.0, (0, 0, 40, 40)),
        (30, 40, 1.0, 4 / 3, (0, 0, 30, 40)),
        (40, 30, 1.0, 3 / 4, (0, 0, 40, 30)),
        (48, 48, 0.1875, 4 / 3, (30, 24, 18, 24)),
        (48, 48, 0.1875, 3 / 4, (24, 30, 24, 18)),
    ],
)
def test_random_box_can_touch_every_border(
    height: int, width: int, area: float, ratio: float, box: tuple[int, int, int, int]
) -> None:
    generator = ScriptedGenerator(area, ratio)
    assert random_crop_box(height, width, cast(np.random.Generator, generator)) == box
    assert generator.num_uniform_draws == 2


@pytest.mark.parametrize(
    ("height", "width", "ratio", "box"),
    [
        (10, 4000, 1.0, (0, 1993, 10, 13)),
        (4000, 10, 1.0, (1993, 0, 13, 10)),
        (40, 50, 3 / 4, (0, 0, 40, 50)),  # too high by each draw, and no wider than the widest box
        (50, 40, 4 / 3, (0, 0, 50, 40)),  # too wide by each draw
        (41, 60, 3 / 4, (0, 2, 41, 55)),
        (60, 41, 4 / 3, (2, 0, 55, 41)),
    ],
)
def test_box_falls_back_to_the_largest_centered_one(
    height: int, width: int, ratio: float, box: tuple[int, int, int, int]
) -> None:
    generator = ScriptedGenerator(1.0, ratio)
    assert random_crop_box(height, width, cast(np.random.Generator, generator)) == box
    assert generator.num_uniform_draws == 20
