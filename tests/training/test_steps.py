"""Optimizer steps over several batches, and clipped gradients, against plain torch loops."""

import pytest
import torch
from network_makers import few_digits, make_learner, same_bits, seeded_small_net
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from graftpop.seeds import derive
from graftpop.training.learner import Learner

CPU = torch.device("cpu")
NUM_IMAGES = 180


def linear_net() -> nn.Module:
    """Return a network without BatchNorm, whose gradients do not depend on the size of a batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10))


def assert_close(learner: Learner, network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        assert torch.allclose(learner.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5), name


def test_accumulated_batches_equal_one_large_batch() -> None:
    """In groups of two, 11 batches of 16 images and one of 4 are the batches of 32 and 20 images."""
    parts, whole = make_learner(linear_net(), batch_size=16, accumulate=2), make_learner(linear_net(), batch_size=32)
    for _ in range(2):
        of_parts, of_whole = parts.train_epoch(), whole.train_epoch()
        assert of_parts.loss == pytest.approx(of_whole.loss, rel=1e-4)
        assert of_parts.num_images == of_whole.num_images == NUM_IMAGES
    assert parts.num_steps() == whole.num_steps() == 12
    assert_close(parts, whole.network)


def test_each_group_is_one_step_of_the_mean_over_its_images() -> None:
    learner, network = make_learner(seeded_small_net(), batch_size=16, accumulate=5), seeded_small_net()
    assert (learner.num_batches, learner.steps_per_epoch) == (12, 3)
    learner.train_epoch()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batches = list(few_digits().train.training_batches(16, derive(0, "data", 0, 0), CPU))
    schedule = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * batch / 12 / 4)).item()) / 2 for batch in (0, 5, 10)]
    for lr, group in zip(schedule, (batches[:5], batches[5:10], batches[10:]), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        num_images = sum(len(labels) for _, labels in group)
        for pixels, labels in group:
            (functional.cross_entropy(network(pixels), labels, reduction="sum") / num_images).backward()
        optimizer.step()
    assert learner.num_steps() == 3
    assert_close(learner, network)


def test_loss_terms_are_averaged_as_the_labels_loss() -> None:
    def pull(logits: Tensor, pixels: Tensor) -> Tensor:
        return logits.square().mean()

    parts, whole = make_learner(linear_net(), batch_size=16, accumulate=2), make_learner(linear_net(), batch_size=32)
    for learner in (parts, whole):
        learner.loss_terms.append(pull)
        learner.train_epoch()
    assert_close(parts, whole.network)


def test_interrupted_epoch_starts_again_with_its_first_step() -> None:
    learner = make_learner(linear_net())
    learner.mutual_term = lambda logits, all_logits: logits.sum() * 0
    interrupted = learner.epoch_steps()
    logits = next(interrupted)
    interrupted.send(logits)
    assert learner.num_steps() == 1
    interrupted.close()
    next(learner.epoch_steps())
    assert learner.num_steps() == 0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_clipped_as_by_torch(accumulate: int) -> None:
    learner, network = make_learner(linear_net(), clip_grad_norm=0.1, accumulate=accumulate), linear_net()
    learner.train_epoch()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batches = list(few_digits().train.training_batches(32, derive(0, "data", 0, 0), CPU))
    for first in range(0, 6, accumulate):
        group = batches[first : first + accumulate]
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * first / 24)).item()) / 2
        optimizer.zero_grad()
        num_images = sum(len(labels) for _, labels in group)
        for pixels, labels in group:
            (functional.cross_entropy(network(pixels), labels, reduction="sum") / num_images).backward()
        assert clip_grad_norm_(network.parameters(), 0.1) > 0.1
        optimizer.step()
    assert_close(learner, network)


def test_gradients_below_the_limit_keep_their_bits() -> None:
    clipped, plain = make_learner(linear_net(), clip_grad_norm=1e6), make_learner(linear_net())
    for learner in (clipped, plain):
        learner.train_epoch()
    assert same_bits(clipped.state_dict(), plain.state_dict())


def test_masked_gradients_do_not_count_in_the_norm() -> None:
    masked, network = make_learner(linear_net(), clip_grad_norm=0.1, schedule="constant", batch_size=180), linear_net()
    masked.mask_gradients({"1.weight": torch.zeros(16, 192)})
    masked.train_epoch()
    ((pixels, labels),) = few_digits().train.training_batches(180, derive(0, "data", 0, 0), CPU)
    functional.cross_entropy(network(pixels), labels).backward()
    network.get_parameter("1.weight").grad = None
    clip_grad_norm_(network.parameters(), 0.1)
    for name in ("3.weight", "3.bias"):
        weight = network.get_parameter(name)
        assert weight.grad is not None
        assert torch.allclose(masked.state[name], weight - 0.05 * (weight.grad + 5e-4 * weight), atol=1e-6)
