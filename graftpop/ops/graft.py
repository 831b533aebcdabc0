"""The blend of a receiver's weights with its donor's."""

from torch import Tensor, lerp

__all__ = ["blend"]


def blend(receiver: Tensor, donor: Tensor, alpha: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return alpha * receiver + (1 - alpha) * donor.

    Linear interpolation makes alpha = 1 give the receiver, alpha = 0 the donor, and equal weights themselves, all to
    the bit. With one alpha per layer this is layer-level grafting.

    Args:
        receiver: float weights, any shape.
        donor: the same shape, dtype and device.
        alpha: share of the receiver, in [0, 1]; a shape that broadcasts over the weights.
        out: output tensor, possibly the receiver; None for a new one.

    Returns:
        A tensor of the shape and dtype of `receiver`.

    Raises:
        ValueError: the shapes of receiver and donor differ.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, section 3.3.
    """
    if receiver.shape != donor.shape:
        raise ValueError(
            f"blend: receiver and donor must have one shape, got {tuple(receiver.shape)} and "
            f"{tuple(donor.shape)}; grafting needs equal architectures"
        )
    return lerp(donor, receiver, alpha.to(receiver.dtype), out=out)
