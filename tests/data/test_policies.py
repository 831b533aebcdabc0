"""Policies and color jitter, against torchvision's transforms of single images."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from graftpop.data import MemoryImages
from graftpop.data.augment import Recipe, crop_and_flip, normalize
from graftpop.data.policies import apply_operations, draw_operations, jitter_colors, policy_of, varied
from graftpop.seeds import seeded
from graftpop.settings import AugmentationSettings

CPU = torch.device("cpu")
SIZE = (12, 10)
TORCHVISION: dict[str, tuple[dict[str, Any], v2.Transform]] = {
    "randaugment": ({"policy": "randaugment", "num_ops": 1}, v2.RandAugment(1)),
    "strong randaugment": ({"policy": "randaugment", "num_ops": 1, "magnitude": 25}, v2.RandAugment(1, 25)),
    "trivialaugment": ({"policy": "trivialaugment"}, v2.TrivialAugmentWide()),
    "autoaugment": ({"policy": "autoaugment"}, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
    "of imagenet": ({"policy": "autoaugment", "learned_on": "imagenet"}, v2.AutoAugment()),
    "of svhn": ({"policy": "autoaugment", "learned_on": "svhn"}, v2.AutoAugment(v2.AutoAugmentPolicy.SVHN)),
}


def random_images(num_images: int, seed: int = 0) -> Tensor:
    """Return images in which no two operations have the same effect."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(20, 200, (num_images, *SIZE, 3), generator=generator, dtype=torch.uint8)
    return pixels.permute(0, 3, 1, 2)


def contents(images: Tensor) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in images]


@pytest.mark.parametrize(("tree", "transform"), TORCHVISION.values(), ids=TORCHVISION)
def test_policy_equals_torchvisions_image_by_image(tree: dict[str, Any], transform: v2.Transform) -> None:
    """Count the changed copies of one image: both give the same ones, equally often."""
    num_images, image = 1500, random_images(1)
    operations, drawn = draw_operations(
        policy_of(AugmentationSettings(**tree), *SIZE), num_images, torch.Generator().manual_seed(0)
    )
    ours = Counter(contents(apply_operations(image.expand(num_images, -1, -1, -1), operations, drawn)))
    with seeded(0, CPU):
        theirs = Counter(contents(torch.stack([transform(image[0]) for _ in range(num_images)])))
    assert {key for key, number in ours.items() if number > 15} <= set(theirs)
    assert {key for key, number in theirs.items() if number > 15} <= set(ours)
    common = sum((ours & theirs).values()) / num_images
    assert common > (0.5 if tree["policy"] == "trivialaugment" else 0.85)  # two samples of one distribution


@pytest.mark.parametrize("stages", [1, 3])
def test_each_image_of_a_batch_has_its_own_operations(stages: int) -> None:
    images = random_images(60)
    settings = AugmentationSettings(policy="randaugment", num_ops=stages, magnitude=20)
    operations, drawn = draw_operations(policy_of(settings, *SIZE), 60, torch.Generator().manual_seed(1))
    assert drawn.shape == (stages, 60)
    changed = apply_operations(images, operations, drawn)
    for number in range(60):
        expected = images[number : number + 1]
        for stage in range(stages):
            expected = apply_operations(expected, operations, drawn[stage : stage + 1, number : number + 1])
        assert torch.equal(changed[number], expected[0])


def test_operations_of_randaugment_are_equally_likely() -> None:
    settings = AugmentationSettings(policy="randaugment", num_ops=2)
    operations, drawn = draw_operations(policy_of(settings, *SIZE), 14_000, torch.Generator().manual_seed(0))
    for stage in drawn:
        counts = Counter(operations[number][0] for number in stage.tolist())
        assert len(counts) == 14
        assert all(abs(number - 1000) < 160 for number in counts.values())  # five standard errors
        signs = Counter(operations[number][1] > 0 for number in stage.tolist() if operations[number][0] == "Rotate")
        assert abs(signs[True] - signs[False]) < 160


def test_policy_does_not_change_its_images() -> None:
    images = random_images(30)
    before = images.clone()
    settings = AugmentationSettings(policy="trivialaugment")
    apply_operations(images, *draw_operations(policy_of(settings, *SIZE), 30, torch.Generator().manual_seed(0)))
    assert torch.equal(images, before)


def test_color_jitter_equals_torchvisions_image_by_image() -> None:
    functions = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)
    images = random_images(50)
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand(3, 50, generator=generator) * 2
    order = torch.rand(3, 50, generator=generator).argsort(0)
    changed = jitter_colors(images, factors, order)
    for number, image in enumerate(images):
        for kind in order[:, number].tolist():
            image = functions[kind](image, float(factors[kind, number]))
        difference = (changed[number].int() - image.int()).abs()
        assert difference.max() <= 1  # rounded down from values that differ in the last bit
        assert (difference > 0).float().mean() < 0.02


def test_color_jitter_draws_factors_around_1() -> None:
    gray = torch.full((3000, 3, *SIZE), 100, dtype=torch.uint8)
    batch = iter([(gray, torch.arange(3000))])
    settings = AugmentationSettings(color_jitter=0.4)
    ((images, targets),) = varied(batch, settings, 3000, SIZE, 0)
    assert torch.equal(targets, torch.arange(3000))
    brightness = images.float().mean((1, 2, 3)) / 100  # contrast and saturation keep a gray image
    assert 0.57 <= brightness.min() < 0.62
    assert 1.38 < brightness.max() <= 1.4
    assert abs(brightness.mean() - 1) < 0.03


def test_strong_color_jitter_has_no_negative_factors() -> None:
    gray = torch.full((500, 3, *SIZE), 100, dtype=torch.uint8)
    ((images, _),) = varied(iter([(gray, torch.zeros(500))]), AugmentationSettings(color_jitter=3.0), 500, SIZE, 0)
    assert (images == 0).flatten(1).all(1).float().mean() < 0.05


VARIED = AugmentationSettings(policy="randaugment", color_jitter=0.4)


def memory_images(augmentation: AugmentationSettings) -> MemoryImages:
    recipe = Recipe((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 1, True, augmentation)
    return MemoryImages(random_images(25), torch.arange(25), recipe)


def test_batches_without_augmentation_are_cropped_and_mirrored_only() -> None:
    images = memory_images(AugmentationSettings())
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(25, generator=generator)
    dy, dx = torch.randint(3, (2, 25), generator=generator)
    mirrored = torch.rand(25, generator=generator) < 0.5
    expected = normalize(crop_and_flip(images.pixels[order], dy, dx, mirrored, 1), images.recipe)
    batches = list(images.training_batches(10, 7, CPU))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), expected)
    assert torch.equal(torch.cat([labels for _, labels in batches]), order)


def test_policy_and_jitter_follow_the_crops_and_precede_normalization() -> None:
    images = memory_images(VARIED)
    plain = replace(images.recipe, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3, augmentation=AugmentationSettings())
    cropped = (
        (batch.round().byte(), labels) for batch, labels in replace(images, recipe=plain).training_batches(10, 7, CPU)
    )
    for (batch, labels), (pixels, same_labels) in zip(
        images.training_batches(10, 7, CPU), varied(cropped, VARIED, 25, SIZE, 7), strict=True
    ):
        assert torch.equal(batch, normalize(pixels, images.recipe))
        assert torch.equal(labels, same_labels)


def test_augmentation_is_a_function_of_the_seed_whatever_the_batch_size() -> None:
    images = memory_images(VARIED)
    before = torch.random.get_rng_state()
    first, again, other = (
        torch.cat([batch for batch, _ in images.training_batches(size, seed, CPU)])
        for size, seed in ((4, 1), (25, 1), (25, 2))
    )
    assert torch.equal(first, again[:24])  # the last batch of one image is dropped
    assert not torch.equal(again, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_jitter_keeps_the_draws_of_the_policy() -> None:
    plain, both = (
        AugmentationSettings(policy="trivialaugment"),
        AugmentationSettings(policy="trivialaugment", color_jitter=1e-9),
    )
    results = [
        torch.cat([batch for batch, _ in memory_images(kind).training_batches(8, 1, CPU)]) for kind in (plain, both)
    ]
    torch.testing.assert_close(*results, rtol=0, atol=0.03)  # one level of a color: jitter rounds down


def test_evaluation_is_not_augmented() -> None:
    images = memory_images(VARIED)
    batches = list(images.evaluation_batches(10, CPU))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), normalize(images.pixels, images.recipe))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_device_gets_the_same_operations() -> None:
    on_cpu, on_cuda = (
        torch.cat([batch.cpu() for batch, _ in memory_images(VARIED).training_batches(8, 1, torch.device(device))])
        for device in ("cpu", "cuda")
    )
    assert ((on_cpu - on_cuda).abs() > 0.03).float().mean() < 0.01  # pixels halfway between two others
