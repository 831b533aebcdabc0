"""Batches of images in memory."""

from dataclasses import replace

import pytest
import torch
from data_makers import random_pixels

from graftpop.data import MemoryImages
from graftpop.data.augment import Recipe, crop_and_flip, normalize

CPU = torch.device("cpu")
PLAIN = Recipe((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0, False)
VARIED = Recipe((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 1, True)


def numbered(num_images: int, recipe: Recipe = PLAIN, rows: torch.Tensor | None = None) -> MemoryImages:
    """Return images whose labels are their numbers."""
    pixels = torch.from_numpy(random_pixels(num_images, 6, 6)).permute(0, 3, 1, 2)
    return MemoryImages(pixels, torch.arange(num_images), recipe, rows)


@pytest.mark.parametrize(("num_images", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (3, [3]), (1, [])])
def test_single_image_batch_is_dropped_in_training(num_images: int, sizes: list[int]) -> None:
    assert [len(labels) for _, labels in numbered(num_images).training_batches(4, 0, CPU)] == sizes


def test_epoch_has_every_image_once_with_its_label() -> None:
    images = numbered(50)
    batches = list(images.training_batches(8, 3, CPU))
    labels = torch.cat([labels for _, labels in batches])
    assert sorted(labels.tolist()) == list(range(50))
    torch.testing.assert_close(torch.cat([pixels for pixels, _ in batches]), images.pixels[labels].float() / 255)


def test_order_depends_on_the_seed_alone() -> None:
    expected = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    for images, batch_size in ((numbered(50), 8), (numbered(50, VARIED), 25)):
        labels = torch.cat([labels for _, labels in images.training_batches(batch_size, 3, CPU)])
        assert torch.equal(labels, expected)


def test_epochs_are_equal_for_equal_seeds_only() -> None:
    first, again, other = (
        torch.cat([images for images, _ in numbered(50, VARIED).training_batches(8, seed, CPU)]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_epoch_does_not_change_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    list(numbered(50, VARIED).training_batches(8, 1, CPU))
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_variant_of_an_image_occurs() -> None:
    images = numbered(30, VARIED)
    seen = set()
    for seed in range(20):
        for batch, labels in images.training_batches(10, seed, CPU):
            for image, label in zip(batch, labels, strict=True):
                original = images.pixels[label].expand(18, -1, -1, -1)
                dy, dx, mirrored = (
                    part.flatten()
                    for part in torch.meshgrid(torch.arange(3), torch.arange(3), torch.arange(2), indexing="ij")
                )
                variants = normalize(crop_and_flip(original, dy, dx, mirrored.bool(), 1), VARIED)
                matches = [number for number in range(18) if torch.equal(variants[number], image)]
                assert len(matches) == 1
                seen.add(matches[0])
    assert seen == set(range(18))


def test_half_of_the_images_are_mirrored() -> None:
    images = numbered(4000, replace(PLAIN, flip=True))
    ((batch, labels),) = images.training_batches(4000, 0, CPU)
    mirrored = torch.isclose(batch, images.pixels[labels].flip(3) / 255).flatten(1).all(1)
    assert abs(mirrored.float().mean() - 0.5) < 0.04  # five standard errors


def test_evaluation_has_every_image_unchanged_and_in_order() -> None:
    images = numbered(9, VARIED)
    batches = list(images.evaluation_batches(4, CPU))
    assert [len(labels) for _, labels in batches] == [4, 4, 1]
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(9))
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), normalize(images.pixels, VARIED))


def test_rows_select_the_images_of_a_split() -> None:
    rows = torch.tensor([7, 2, 5])
    images = numbered(9, VARIED, rows)
    assert images.num_images == 3
    assert [labels.tolist() for _, labels in images.evaluation_batches(4, CPU)] == [[7, 2, 5]]
    assert {int(label) for _, labels in images.training_batches(4, 0, CPU) for label in labels} == {2, 5, 7}


def test_pixels_in_either_memory_order_give_equal_batches() -> None:
    channels_last = numbered(20, VARIED)
    channels_first = MemoryImages(channels_last.pixels.contiguous(), channels_last.labels, VARIED)
    batches = (images.training_batches(8, 0, CPU) for images in (channels_last, channels_first))
    assert all(torch.equal(batch, other) for (batch, _), (other, _) in zip(*batches, strict=True))


def test_batches_do_not_share_memory_with_the_pixels() -> None:
    images = numbered(8)
    before = images.pixels.clone()
    for batch, labels in images.evaluation_batches(8, CPU):
        batch.zero_()
        labels.zero_()
    assert torch.equal(before, images.pixels)
    assert images.labels.tolist() == list(range(8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_device_gets_the_same_batches() -> None:
    images = numbered(50, VARIED, torch.arange(3, 40))
    cuda = torch.device("cuda")
    for name in ("training", "evaluation"):
        on_cpu, on_cuda = (
            list(images.training_batches(8, 0, device) if name == "training" else images.evaluation_batches(8, device))
            for device in (CPU, cuda)
        )
        for (cpu_images, cpu_labels), (cuda_images, cuda_labels) in zip(on_cpu, on_cuda, strict=True):
            assert cuda_images.device.type == cuda_labels.device.type == "cuda"
            torch.testing.assert_close(cpu_images, cuda_images.cpu(), rtol=1e-6, atol=1e-6)
            assert torch.equal(cpu_labels, cuda_labels.cpu())
