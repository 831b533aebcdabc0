"""The terms of distillation and mutual learning, against plain sums over images and classes."""

import math
from collections.abc import Sequence

import pytest
import torch
from network_makers import copied, make_learner, same_bits, seeded_small_net
from torch import Tensor, nn

from graftpop.losses.distillation import distillation_term
from graftpop.losses.mutual import mutual_term


def direct(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


def teacher(seed: int) -> nn.Module:
    return seeded_small_net(seed, dropout=0.5).eval().requires_grad_(False)


def images(num_images: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def logits_of(seed: int, num_images: int = 5) -> Tensor:
    return 3.0 * torch.randn(num_images, 10, generator=torch.Generator().manual_seed(seed))


def probabilities(logits: Tensor, temperature: float) -> list[list[float]]:
    """Return softmax(z / temperature), image by image."""
    exponentials = [[math.exp(value / temperature) for value in row] for row in logits.double().tolist()]
    return [[value / math.fsum(row) for value in row] for row in exponentials]


def slow_distillation(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> float:
    own, taught = probabilities(student, temperature), [probabilities(each, temperature) for each in teachers]
    image_losses = [
        -math.fsum(
            math.fsum(each[image][label] for each in taught) / len(taught) * math.log(own[image][label])
            for label in range(10)
        )
        for image in range(len(own))
    ]
    return temperature**2 * math.fsum(image_losses) / len(image_losses)


def slow_mutual(all_logits: Tensor, peer: int, temperature: float) -> float:
    shares = [probabilities(logits, temperature) for logits in all_logits]
    divergences = [
        math.fsum(
            p * math.log(p / q)
            for other_image, own_image in zip(shares[other], shares[peer], strict=True)
            for p, q in zip(other_image, own_image, strict=True)
        )
        / len(shares[peer])
        for other in range(len(shares))
        if other != peer
    ]
    return temperature**2 * math.fsum(divergences) / len(divergences)


# distillation


@pytest.mark.parametrize("num_teachers", [1, 3])
@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 1.0), (1.0, 0.3), (5.0, 2.0)])
def test_distillation_term_equals_the_formula(num_teachers: int, temperature: float, weight: float) -> None:
    teachers = [teacher(seed) for seed in range(num_teachers)]
    term = distillation_term(teachers, direct, temperature=temperature, weight=weight, dtype=torch.float32)
    pixels, student = images(), logits_of(0)
    expected = slow_distillation(student, [each(pixels) for each in teachers], temperature)
    assert term(student, pixels).item() == pytest.approx(weight * expected, rel=1e-5)


def test_gradients_reach_the_student_but_no_teacher() -> None:
    student, fixed = seeded_small_net(3), teacher(1)
    before = copied(fixed.state_dict())
    term = distillation_term([fixed], direct, temperature=2.0, weight=1.0, dtype=torch.float32)
    term(student(images()), images()).backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for name, parameter in student.named_parameters()
        if name != "0.weight"
    )
    assert all(parameter.grad is None for parameter in fixed.parameters())
    assert same_bits(fixed.state_dict(), before)  # includes the BatchNorm statistics
    assert not fixed.training


def test_trainable_teachers_get_no_gradient() -> None:
    trainable = seeded_small_net(1).eval()
    term = distillation_term([trainable], direct, temperature=2.0, weight=1.0, dtype=torch.float32)
    student = logits_of(0).requires_grad_()
    term(student, images()).backward()
    assert student.grad is not None
    assert all(parameter.grad is None for parameter in trainable.parameters())


def test_term_is_zero_without_teachers_and_counts_later_additions() -> None:
    teachers: list[nn.Module] = []
    term = distillation_term(teachers, direct, temperature=2.0, weight=1.0, dtype=torch.float32)
    assert term(logits_of(0), images()).item() == 0.0
    teachers.append(teacher(1))
    expected = slow_distillation(logits_of(0), [teachers[0](images())], 2.0)
    assert term(logits_of(0), images()).item() == pytest.approx(expected, rel=1e-5)


def test_learner_without_teachers_trains_as_without_the_term() -> None:
    learner, plain = make_learner(seeded_small_net()), make_learner(seeded_small_net())
    learner.loss_terms.append(distillation_term([], direct, temperature=2.0, weight=1.0, dtype=torch.float32))
    learner.train_epoch()
    plain.train_epoch()
    assert same_bits(learner.state_dict(), plain.state_dict())


def test_loss_is_minimal_at_the_teachers_probabilities() -> None:
    fixed = teacher(1)
    term = distillation_term([fixed], direct, temperature=2.0, weight=1.0, dtype=torch.float32)
    agreed = fixed(images()).requires_grad_()
    least = term(agreed, images())
    least.backward()
    assert agreed.grad is not None
    assert agreed.grad.abs().max() < 1e-6
    assert all(term(agreed + 0.1 * logits_of(seed), images()) > least for seed in range(5))


def test_teachers_compute_in_the_precision_of_training() -> None:
    fixed = teacher(1)
    values = [
        distillation_term([fixed], direct, temperature=2.0, weight=1.0, dtype=dtype)(logits_of(0), images())
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert {value.dtype for value in values} == {torch.float32}
    assert values[0] != values[1]
    assert values[1].item() == pytest.approx(values[0].item(), rel=0.02)


# mutual learning


@pytest.mark.parametrize("num_peers", [2, 4])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (3.0, 0.5)])
def test_mutual_term_is_the_mean_divergence_from_the_others(num_peers: int, temperature: float, weight: float) -> None:
    all_logits = torch.stack([logits_of(seed) for seed in range(num_peers)])
    for peer in range(num_peers):
        term = mutual_term(peer, temperature=temperature, weight=weight)
        expected = weight * slow_mutual(all_logits, peer, temperature)
        assert term(all_logits[peer], all_logits).item() == pytest.approx(expected, rel=1e-5)


def test_mutual_term_of_a_single_peer_is_zero() -> None:
    term = mutual_term(0, temperature=1.0, weight=1.0)
    own = logits_of(0)
    assert term(own, own[None]).item() == 0.0
    assert (own.sum() + term(own, own[None])).item() == own.sum().item()


def test_mutual_term_has_no_gradient_for_others() -> None:
    own, other = logits_of(0).requires_grad_(), logits_of(1).requires_grad_()
    term = mutual_term(1, temperature=2.0, weight=1.0)
    term(own, torch.stack([other, own.detach()])).backward()
    assert other.grad is None or not other.grad.any()
    assert own.grad is not None
    assert own.grad.any()
    agreed = logits_of(0).requires_grad_()
    value = term(agreed, torch.stack([logits_of(0)] * 3))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert agreed.grad is not None
    assert agreed.grad.abs().max() < 1e-6
