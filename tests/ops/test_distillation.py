"""Losses between class probabilities against loops over images and classes, and their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graftpop.ops.distillation import distillation_loss, mean_probabilities, mutual_loss

seeds = st.integers(0, 999)
temperatures = st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0])


def logits(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def softmax_by_loop(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def probabilities_by_loop(of_one: Tensor, temperature: float) -> list[list[float]]:
    return [softmax_by_loop(row, temperature) for row in of_one.tolist()]


def divergence_by_loop(others: list[list[float]], own: list[list[float]]) -> float:
    """Return the mean over images of KL(other || own)."""
    total = sum(
        p * math.log(p / q)
        for other_row, own_row in zip(others, own, strict=True)
        for p, q in zip(other_row, own_row, strict=True)
    )
    return total / len(own)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@given(st.integers(1, 4), temperatures, seeds)
def test_mean_of_teachers_is_over_probabilities(num_teachers: int, temperature: float, seed: int) -> None:
    teachers = list(logits(num_teachers, 3, 5, seed=seed))
    of_each = torch.tensor([probabilities_by_loop(teacher, temperature) for teacher in teachers])
    mean = mean_probabilities(teachers, temperature)
    assert torch.allclose(mean, of_each.mean(0), atol=1e-6)
    assert torch.allclose(mean.sum(1), torch.ones(3), atol=1e-6)


def test_mean_of_opposed_teachers_is_shared_certainty() -> None:
    teacher = logits(4, 6, seed=0)
    assert torch.equal(mean_probabilities([teacher], 2.0), functional.softmax(teacher / 2.0, dim=1))
    opposed = [torch.tensor([[200.0, 0.0, -200.0]]), torch.tensor([[-200.0, 0.0, 200.0]])]
    assert mean_probabilities(opposed, 1.0).tolist() == [[0.5, 0.0, 0.5]]  # the mean of their logits would be 1/3 each


@given(temperatures, seeds)
def test_distillation_equals_a_loop_over_images_and_classes(temperature: float, seed: int) -> None:
    student, teacher = logits(2, 4, 5, seed=seed)
    target = mean_probabilities([teacher], temperature)
    own = probabilities_by_loop(student, temperature)
    total = 0.0
    for image in range(4):
        for k in range(5):
            total -= target[image, k].item() * math.log(own[image][k])
    loss = distillation_loss(student, target, temperature).item()
    assert loss == pytest.approx(temperature**2 * total / 4, rel=1e-5)


def test_one_hot_teacher_at_temperature_1_equals_cross_entropy() -> None:
    student, labels = logits(16, 10, seed=0), torch.arange(16) % 10
    loss = distillation_loss(student, functional.one_hot(labels, 10).float(), 1.0)
    assert loss.item() == pytest.approx(functional.cross_entropy(student, labels).item(), rel=1e-6)


def test_uniform_student_has_loss_log_num_classes() -> None:
    target = mean_probabilities([logits(3, 10, seed=0)], 2.0)
    assert distillation_loss(torch.zeros(3, 10), target, 2.0).item() == pytest.approx(4 * math.log(10), rel=1e-6)


@given(temperatures, seeds)
def test_distillation_gradient_equals_the_closed_form(temperature: float, seed: int) -> None:
    """d loss / d z = tau * (softmax(z / tau) - pbar) / B."""
    student, teacher = logits(2, 4, 5, seed=seed)
    student.requires_grad_()
    own = functional.softmax(student.detach() / temperature, dim=1)
    target = mean_probabilities([teacher], temperature)
    expected = temperature * (own - target) / 4
    assert torch.allclose(gradient(distillation_loss(student, target, temperature), student), expected, atol=1e-6)
    assert gradient(distillation_loss(student, own, temperature), student).abs().max() < 1e-6


@given(temperatures, seeds)
def test_distillation_loss_is_minimal_at_agreement(temperature: float, seed: int) -> None:
    student, teacher = logits(2, 4, 5, seed=seed)
    target = mean_probabilities([teacher], temperature)
    least = distillation_loss(teacher, target, temperature).item()
    assert least == pytest.approx(temperature**2 * -torch.xlogy(target, target).sum(1).mean().item(), rel=1e-5)
    assert distillation_loss(student, target, temperature).item() >= least


@given(st.integers(1, 4), temperatures, seeds)
def test_mutual_loss_equals_a_loop_over_the_other_peers(num_others: int, temperature: float, seed: int) -> None:
    own, *others = logits(num_others + 1, 4, 5, seed=seed)
    own_probabilities = probabilities_by_loop(own, temperature)
    divergences = [divergence_by_loop(probabilities_by_loop(other, temperature), own_probabilities) for other in others]
    loss = mutual_loss(own, torch.stack(others), temperature).item()
    assert loss == pytest.approx(temperature**2 / num_others * sum(divergences), rel=1e-4, abs=1e-6)


@given(st.integers(1, 4), temperatures, seeds)
def test_mutual_loss_is_0_for_equal_peers_only(num_others: int, temperature: float, seed: int) -> None:
    own, *others = logits(num_others + 1, 4, 5, seed=seed)
    assert mutual_loss(own, torch.stack(others), temperature).item() > 0
    assert mutual_loss(own, own.expand(num_others, 4, 5), temperature).item() == 0.0
    assert mutual_loss(own + 7, own[None], temperature).item() == pytest.approx(0.0, abs=1e-4)  # a shift is no change


def test_divergence_is_from_the_other_peer_to_itself() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 log(3/2) + 1/4 log(1/2); the other way round it is log(2) - log(3) / 2."""
    even, uneven = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    there, back = mutual_loss(even, uneven[None], 1.0).item(), mutual_loss(uneven, even[None], 1.0).item()
    assert there == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert back == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-6)


@given(st.integers(1, 4), temperatures, seeds)
def test_mutual_gradient_is_distillation_from_the_others_mean(num_others: int, temperature: float, seed: int) -> None:
    own, *others = logits(num_others + 1, 4, 5, seed=seed)
    own.requires_grad_()
    mutual = gradient(mutual_loss(own, torch.stack(others), temperature), own)
    distilled = gradient(distillation_loss(own, mean_probabilities(others, temperature), temperature), own)
    assert torch.allclose(mutual, distilled, atol=1e-5)


def test_mutual_loss_of_a_single_peer_is_0() -> None:
    own = logits(4, 5, seed=0).requires_grad_()
    nothing = mutual_loss(own, torch.zeros(0, 4, 5), 1.0)
    assert nothing.shape == ()
    assert nothing.item() == 0.0
    assert not nothing.requires_grad
    assert torch.equal(gradient(own.sum() + nothing, own), torch.ones(4, 5))


def test_no_gradient_reaches_teachers_or_other_peers() -> None:
    student, teacher = logits(2, 4, 5, seed=0)
    student.requires_grad_()
    teacher.requires_grad_()
    losses = distillation_loss(student, mean_probabilities([teacher], 2.0), 2.0) + mutual_loss(
        student, teacher[None], 2.0
    )
    losses.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_large_logits_stay_finite() -> None:
    student, teacher = torch.tensor([[1e4, -1e4, 0.0]]).requires_grad_(), torch.tensor([[-1e4, 1e4, 0.0]])
    for loss in (
        distillation_loss(student, mean_probabilities([teacher], 1.0), 1.0),
        mutual_loss(student, teacher[None], 1.0),
    ):
        assert loss.item() == pytest.approx(2e4)
        assert gradient(loss, student).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = logits(2, 4, 5, seed=0).to(dtype)
    target = mean_probabilities([teacher], 2.0)
    losses = distillation_loss(student, target, 2.0), mutual_loss(student, teacher[None], 2.0)
    exact = (distillation_loss(student.float(), target, 2.0), mutual_loss(student.float(), teacher.float()[None], 2.0))
    assert {target.dtype, *(loss.dtype for loss in losses)} == {torch.float32}
    assert [loss.item() for loss in losses] == [loss.item() for loss in exact]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_not_above_0_is_refused(temperature: float) -> None:
    own = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"mean_probabilities: temperature .*got temperature="):
        mean_probabilities([own], temperature)
    with pytest.raises(ValueError, match=r"distillation_loss: temperature .*got temperature="):
        distillation_loss(own, own, temperature)
    with pytest.raises(ValueError, match=r"mutual_loss: temperature .*got temperature="):
        mutual_loss(own, own[None], temperature)


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^mean_probabilities: .*got shapes \[\]"):
        mean_probabilities([], 1.0)
    with pytest.raises(ValueError, match=r"^mean_probabilities: .*got shapes \[\(2, 3\), \(2, 4\)\]"):
        mean_probabilities([torch.zeros(2, 3), torch.zeros(2, 4)], 1.0)
    with pytest.raises(ValueError, match=r"student and teachers .*got \(2, 3\) and \(1, 3\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(1, 3), 1.0)
    with pytest.raises(ValueError, match=r"others .* \(K - 1, B, C\) .* got \(2, 3\) for \(2, 3\)"):
        mutual_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.0)
