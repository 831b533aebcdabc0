"""Losses that pull a network's class probabilities towards others': fixed teachers, or peers on the same batch.

Both soften probabilities by a temperature and multiply the loss by its square, so the gradient keeps its size. Both are
computed in float32 and averaged over the batch, like the cross entropy with the labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss", "mean_probabilities", "mutual_loss"]


def mean_probabilities(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the mean of the teachers' class probabilities.

        pbar = 1/M * sum_m softmax(z_m / temperature)

    Args:
        logits: logits of M >= 1 teachers, each (B, C), on the same images.
        temperature: > 0.

    Returns:
        (B, C) float32; each row sums to 1.

    Raises:
        ValueError: no teacher, different shapes, or a temperature outside its range.

    References:
        Meng et al., Filter Grafting for DNNs: Reason, Method, and Cultivation, arXiv:2004.12311, section 3.5.
    """
    _check_temperature("mean_probabilities", temperature)
    shapes = {tuple(of_one.shape) for of_one in logits}
    if len(shapes) != 1:
        raise ValueError(
            f"mean_probabilities: needs logits of one shape from at least one teacher, got shapes {sorted(shapes)}"
        )
    return torch.stack([functional.softmax(of_one.float() / temperature, dim=1) for of_one in logits]).mean(0)


def distillation_loss(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of a student with its teachers' probabilities.

        L = tau ** 2 * mean over the batch of ( - sum_k pbar_k * log softmax(z / tau)_k )

    Its minimum is tau ** 2 times the entropy of pbar, where the student's probabilities equal the teachers'. No
    gradient reaches the teachers.

    Args:
        logits: the student's z, (B, C).
        teacher_probabilities: pbar, (B, C), from `mean_probabilities` at the same temperature.
        temperature: tau, > 0.

    Returns:
        A float32 scalar tensor, at least 0.

    Raises:
        ValueError: shapes differ, or a temperature outside its range.

    References:
        Meng et al., arXiv:2004.12311, section 3.5, with tau = 2. The text omits the temperature in the
        probabilities and sums over images; the code divides the logits by it.
    """
    _check_temperature("distillation_loss", temperature)
    if logits.shape != teacher_probabilities.shape:
        raise ValueError(
            f"distillation_loss: student and teachers must have one shape, got {tuple(logits.shape)} and "
            f"{tuple(teacher_probabilities.shape)}"
        )
    target = teacher_probabilities.detach().float()
    return functional.cross_entropy(logits.float() / temperature, target) * temperature**2


def mutual_loss(logits: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Return the mean KL divergence from the other peers' class probabilities to a peer's own.

        L = T ** 2 / (K - 1) * sum over others of the mean over the batch of KL(p_other || p_own)

    with p = softmax(z / T). It is 0 if all peers agree. No gradient reaches the others.

    Args:
        logits: this peer's z, (B, C).
        others: logits of the other peers on the same images, (K - 1, B, C); K may be 1.
        temperature: T, > 0.

    Returns:
        A float32 scalar tensor, at least 0 up to rounding; exactly 0 without others.

    Raises:
        ValueError: shapes do not fit, or a temperature outside its range.

    References:
        Zhang et al., Deep Mutual Learning, CVPR 2018, where T = 1.
    """
    _check_temperature("mutual_loss", temperature)
    if others.shape[1:] != logits.shape:
        raise ValueError(
            f"mutual_loss: others must have shape (K - 1, B, C) for logits (B, C), got "
            f"{tuple(others.shape)} for {tuple(logits.shape)}"
        )
    if len(others) == 0:
        return torch.zeros((), dtype=torch.float32, device=logits.device)
    own = functional.log_softmax(logits.float() / temperature, dim=-1).expand_as(others)
    other_log_probabilities = functional.log_softmax(others.detach().float() / temperature, dim=-1)
    divergence = functional.kl_div(own, other_log_probabilities, reduction="sum", log_target=True)
    return divergence * (temperature**2 / (len(others) * len(logits)))


def _check_temperature(where: str, temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"{where}: temperature must be above 0, got {temperature=}")
