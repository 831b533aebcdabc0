"""Random erasing, mixup and CutMix of batches."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from graftpop.data.images import Images
from graftpop.data.mixing import draw_boxes, erase, with_mixing
from graftpop.settings import AugmentationSettings

CPU = torch.device("cpu")
NUM_CLASSES = 5


@dataclass
class Plain:
    """Images whose batches are the same in every epoch."""

    inputs: Tensor
    labels: Tensor

    @property
    def num_images(self) -> int:
        return len(self.inputs)

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Any:
        return zip(self.inputs.split(batch_size), self.labels.split(batch_size), strict=True)

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Any:
        return self.training_batches(batch_size, 0, device)


def plain(num_images: int, side: int = 8) -> Plain:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(num_images, 3, side, side, generator=generator) + 1
    return Plain(inputs, torch.randint(NUM_CLASSES, (num_images,), generator=generator))


def mixing(images: Plain, **settings: Any) -> Images:
    return with_mixing(images, AugmentationSettings(**settings), NUM_CLASSES)


def batches(images: Images, seed: int = 0, batch_size: int = 10) -> list[tuple[Tensor, Tensor]]:
    return list(images.training_batches(batch_size, seed, CPU))


def shares(images: Plain, mixed: Images, seed: int = 0) -> Tensor:
    """Return of each batch the share of its own labels, from targets whose labels differ from their partner's."""
    own = images.labels.split(10)
    found = []
    for (_, targets), labels in zip(batches(mixed, seed), own, strict=True):
        row = int((labels != labels.roll(1)).nonzero()[0])
        found.append(targets[row, labels[row]])
    return torch.stack(found)


def test_split_without_mixing_is_the_split_itself() -> None:
    images = plain(4)
    assert mixing(images) is images
    assert mixing(images, policy="randaugment", color_jitter=0.4, mix_probability=0.5) is images


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    images = plain(60)
    for (inputs, targets), before, labels, share in zip(
        batches(mixing(images, mixup=1.0)),
        images.inputs.split(10),
        images.labels.split(10),
        shares(images, mixing(images, mixup=1.0)),
        strict=True,
    ):
        torch.testing.assert_close(inputs, share * before + (1 - share) * before.roll(1, 0))
        hot = one_hot(labels, NUM_CLASSES).float()
        torch.testing.assert_close(targets, share * hot + (1 - share) * hot.roll(1, 0))
        torch.testing.assert_close(targets.sum(1), torch.ones(10))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_share_of_mixup_has_the_moments_of_beta(alpha: float) -> None:
    images = plain(10_000, side=1)
    share = shares(images, mixing(images, mixup=alpha))
    variance = 0.25 / (2 * alpha + 1)
    assert abs(share.mean() - 0.5) < 5 * math.sqrt(variance / 1000)
    assert abs(share.var() / variance - 1) < 0.15


def test_mixup_of_a_tiny_alpha_mixes_nearly_nothing() -> None:
    images = plain(2000, side=1)
    share = shares(images, mixing(images, mixup=1e-12))
    assert ((share < 0.01) | (share > 0.99)).float().mean() > 0.9


def test_cutmix_takes_a_rectangle_of_the_labels_share() -> None:
    images = plain(500, side=16)
    rectangles = []
    for (inputs, targets), before, labels in zip(
        batches(mixing(images, cutmix=1.0)), images.inputs.split(10), images.labels.split(10), strict=True
    ):
        from_other = (inputs != before).any(1)
        assert torch.equal(torch.where(from_other[:, None], before.roll(1, 0), before), inputs)
        assert torch.equal(from_other, from_other[:1].expand_as(from_other))  # one rectangle for all images
        rows, columns = from_other[0].any(1).sum(), from_other[0].any(0).sum()
        assert rows * columns == from_other[0].sum()
        share = 1 - from_other[0].float().mean()
        hot = one_hot(labels, NUM_CLASSES).float()
        torch.testing.assert_close(targets, share * hot + (1 - share) * hot.roll(1, 0))
        rectangles.append(float(1 - share))
    assert 0.2 < sum(rectangles) / 50 < 0.6
    assert len(set(rectangles)) > 20


def num_changed(images: Plain, mixed: Images) -> tuple[int, int]:
    """Return how many batches were mixed, and in how many of them pixels of one image remained."""
    changed = kept = 0
    for (inputs, _), before in zip(batches(mixed), images.inputs.split(10), strict=True):
        is_changed = bool((inputs != before).any())
        changed += is_changed
        kept += is_changed and bool((inputs == before).any())
    return changed, kept


def test_each_batch_is_mixed_by_one_of_both() -> None:
    images = plain(4000, side=16)
    changed, by_cutmix = num_changed(images, mixing(images, mixup=1.0, cutmix=1.0))
    assert changed > 380  # CutMix of an empty rectangle changes nothing
    assert abs(by_cutmix - 200) < 50


def test_mix_probability_is_the_share_of_mixed_batches() -> None:
    images = plain(4000)
    mixed = mixing(images, mixup=1.0, mix_probability=0.25)
    assert abs(num_changed(images, mixed)[0] - 100) < 45  # five standard errors
    unmixed = batches(mixing(images, mixup=1.0, mix_probability=0.0))
    assert torch.equal(torch.cat([inputs for inputs, _ in unmixed]), images.inputs)
    assert torch.equal(torch.cat([targets for _, targets in unmixed]), one_hot(images.labels, NUM_CLASSES).float())


def test_draws_are_a_function_of_the_seed_alone() -> None:
    images = mixing(plain(60), erasing=0.5, mixup=1.0, cutmix=1.0)
    before = torch.random.get_rng_state()
    first, again, other = (torch.cat([inputs for inputs, _ in batches(images, seed)]) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluation_is_neither_erased_nor_mixed() -> None:
    images = plain(20)
    evaluated = list(mixing(images, erasing=1.0, mixup=1.0).evaluation_batches(10, CPU))
    assert torch.equal(torch.cat([inputs for inputs, _ in evaluated]), images.inputs)
    assert torch.equal(torch.cat([labels for _, labels in evaluated]), images.labels)


def test_erased_rectangles_equal_torchvisions_image_by_image() -> None:
    images = plain(200, side=12)
    boxes = draw_boxes(200, 12, 12, 0.7, torch.Generator().manual_seed(0))
    erased = erase(images.inputs, boxes)
    for image, (top, left, height, width), result in zip(images.inputs, boxes.T.tolist(), erased, strict=True):
        expected = v2.functional.erase(image, top, left, height, width, torch.zeros(1))
        assert torch.equal(result, expected)
    assert (images.inputs > 0).all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 60)])
def test_erased_areas_and_ratios_are_torchvisions(height: int, width: int) -> None:
    top, left, heights, widths = draw_boxes(4000, height, width, 1.0, torch.Generator().manual_seed(0))
    assert (torch.stack((top, left)) >= 0).all()
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + heights).max()) == height
    assert int((left + widths).max()) == width
    areas, ratios = heights * widths / (height * width), heights / widths
    assert (areas > 0.005).all()
    assert 0.3 < areas.max() < 0.36
    assert ratios.min() < 0.4
    transform, image = v2.RandomErasing(1.0), torch.zeros(3, height, width)
    expected = [transform.make_params([image]) for _ in range(600)]
    theirs = torch.tensor([[params["h"], params["w"]] for params in expected]).double().mean(0)
    ours = torch.stack((heights, widths)).double().mean(1)
    torch.testing.assert_close(ours, theirs, rtol=0.08, atol=0)


def test_erasing_is_the_probability_of_a_rectangle() -> None:
    images = plain(2000)
    erased = torch.cat([inputs for inputs, _ in batches(mixing(images, erasing=0.25), batch_size=100)])
    is_erased = (erased == 0).flatten(1).any(1)
    assert abs(is_erased.float().mean() - 0.25) < 0.05
    assert torch.equal(erased[~is_erased], images.inputs[~is_erased])
    assert batches(mixing(images, erasing=0.25))[0][1].dtype == torch.int64


def test_image_too_small_for_a_rectangle_is_not_erased() -> None:
    assert not draw_boxes(50, 1, 1, 1.0, torch.Generator().manual_seed(0))[2:].any()
