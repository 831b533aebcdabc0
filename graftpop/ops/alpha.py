"""`alpha`: the share of its own weights that a receiver keeps in a graft."""

import math

import torch
from torch import Tensor

__all__ = ["adaptive_alpha", "fixed_alpha"]


def adaptive_alpha(
    receiver_entropy: Tensor, donor_entropy: Tensor, *, A: float = 0.4, c: float = 500.0, base: float = 0.5
) -> Tensor:
    """Return alpha, which grows with the receiver's entropy lead over the donor.

        alpha = A / pi * atan(c * (H_receiver - H_donor)) + base,    clipped to [0, 1]

    Equal entropies give `base`, 1/2 in the papers: the strength of an exchange, apart from its adaptivity. At 1/2,
    swapping receiver and donor gives 1 - alpha, and A = 0 is plain averaging. A large c is nearly a switch between the
    two bounds. With A = 0.4, c = 500 and a lead of 0.01 nats, alpha is 0.675.

    Args:
        receiver_entropy: entropy of the receiver's weights, in nats, any shape.
        donor_entropy: entropy of the donor's weights, in nats, same shape.
        A: width of the interval of alpha around `base`, in [0, 1].
        c: steepness, > 0, per nat.
        base: alpha of equal entropies, in [0, 1].

    Returns:
        alpha as float64, same shape, in [base - A/2, base + A/2] and in [0, 1].

    Raises:
        ValueError: shapes differ, or a parameter is outside its range.

    References:
        Meng et al., CVPR 2020, adaptive weighting. The text prints the formula without 1/pi, so that alpha would leave
        [0, 1] at the published A = 0.4. The released code has 1/pi, as we do. `base` other than 1/2 is ours.
    """
    if receiver_entropy.shape != donor_entropy.shape:
        raise ValueError(
            f"adaptive_alpha: entropies must have one shape, got {tuple(receiver_entropy.shape)} and "
            f"{tuple(donor_entropy.shape)}"
        )
    if not 0 <= A <= 1:
        raise ValueError(f"adaptive_alpha: A must be in [0, 1], got {A=}")
    if not c > 0:
        raise ValueError(f"adaptive_alpha: c must be above 0, got {c=}")
    if not 0 <= base <= 1:
        raise ValueError(f"adaptive_alpha: base must be in [0, 1], got {base=}")
    gap = receiver_entropy.double() - donor_entropy.double()
    return (A / math.pi * torch.atan(c * gap) + base).clamp(0, 1)


def fixed_alpha(receiver_entropy: Tensor, alpha: float) -> Tensor:
    """Return the same alpha for every layer, independent of its entropy.

    Args:
        receiver_entropy: tensor of the wanted shape.
        alpha: in [0, 1]; 1/2 averages, 1 keeps the receiver unchanged.

    Returns:
        alpha as float64, the shape of `receiver_entropy`.

    Raises:
        ValueError: alpha is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"fixed_alpha: alpha must be in [0, 1], got {alpha=}")
    return torch.full_like(receiver_entropy, alpha, dtype=torch.float64)
