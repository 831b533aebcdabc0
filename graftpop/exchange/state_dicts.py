"""Grafting two networks of which only the state dicts are there, `graftpop.graft`: no module, no file, no population.

Which tensors belong together is read from their order. A population does not go by order: it runs the network
(`training/sites.py`), which a state dict cannot.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from graftpop.errors import ModelError
from graftpop.ops.alpha import adaptive_alpha
from graftpop.ops.entropy import layer_entropies
from graftpop.ops.graft import blend

__all__ = ["convolutions_of", "graft_state_dicts"]

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def convolutions_of(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights of two-dimensional convolutions, in order.

    That is every `weight` with four dimensions and floating values. Nothing else can be told from a state dict: the
    weight of a one-dimensional convolution looks as other tensors do.

    Args:
        state: a state dict.
    """
    return [
        name
        for name, tensor in state.items()
        if name.rpartition(".")[2] == "weight" and tensor.dim() == 4 and tensor.dtype in FLOATS and tensor.numel()
    ]


def graft_state_dicts(
    receiver: Mapping[str, Tensor], donor: Mapping[str, Tensor], *, A: float = 0.4, c: float = 500.0
) -> dict[str, Tensor]:
    """Return the receiver's state dict grafted with the donor's, layer by layer; neither of them is changed.

        alpha  = A / pi * atan(c * (H_receiver - H_donor)) + 1/2        of each convolution
        result = alpha * receiver + (1 - alpha) * donor

    H is the entropy of a convolution's weights in 10 bins, in nats. Sites are found by the *order* of the entries: a
    convolution is a `weight` with four dimensions, and what comes after it, up to the next one, takes its alpha: its
    bias, its BatchNorm, and the classifier that of the last. Populations find sites by *running* the network instead.
    Both agree where every convolution is followed by the one BatchNorm that consumes its output: in ResNet, MobileNetV2
    or VGG. They differ where BatchNorm comes before the convolution (WideResNet, DenseNet) and where convolutions have
    none: here each has an alpha of its own, in a population it takes that of the site before it.

    Args:
        receiver: a network's `state_dict()`.
        donor: that of a network of the same architecture, with the same dtypes, on the same device.
        A: width of the interval of alpha around 1/2, in [0, 1]; 0 averages the two.
        c: steepness, > 0, per nat.

    Returns:
        A new dict of new tensors, in the receiver's order. Integer buffers are the receiver's.

    Raises:
        ModelError: the two differ in a name, a shape, a dtype or the device, the entries are not in the network's
            order, a convolution is not finite, or there is none.
        ValueError: A or c is outside its range.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, arXiv:2001.05868.
    """
    _check_alike(receiver, donor)
    _check_order(receiver)
    convolutions = convolutions_of(receiver)
    if not convolutions:
        raise ModelError(
            "graft: the state dicts must hold a convolution, a weight with four dimensions, got none; "
            "give network.state_dict() of a convolutional network"
        )
    alpha = adaptive_alpha(
        _entropies("receiver", receiver, convolutions), _entropies("donor", donor, convolutions), A=A, c=c
    )
    grafted, site = {}, 0  # what comes before the first convolution goes with it
    for name, own in receiver.items():
        site = convolutions.index(name) if name in convolutions else site
        is_blended = own.dtype in FLOATS
        grafted[name] = blend(own.detach(), donor[name].detach(), alpha[site]) if is_blended else own.detach().clone()
    return grafted


def _check_alike(receiver: Mapping[str, Tensor], donor: Mapping[str, Tensor]) -> None:
    for name in (*receiver, *donor):
        one, other = receiver.get(name), donor.get(name)
        if one is None or other is None:
            raise ModelError(
                f"graft: receiver and donor must have the same names, got '{name}' in the "
                f"{'donor' if one is None else 'receiver'} only; graft needs equal architectures"
            )
        if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            raise ModelError(
                f"graft: '{name}' must be alike in both, got {_kind(one)} in the receiver and "
                f"{_kind(other)} in the donor; graft needs equal architectures"
            )


def _check_order(state: Mapping[str, Tensor]) -> None:
    """Check that the entries are in the order of the network: every module of torch has its weight before its bias."""
    seen: set[str] = set()
    for name in state:
        module, _, kind = name.rpartition(".")
        if kind == "bias" and f"{module}.weight" in state and f"{module}.weight" not in seen:
            raise ModelError(
                f"graft: entries must be in the order of the network, got '{name}' before its weight, as "
                f"a safetensors file has them; load them into the network and give network.state_dict()"
            )
        seen.add(name)


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _entropies(whose: str, state: Mapping[str, Tensor], names: list[str]) -> Tensor:
    for name in names:
        if not state[name].isfinite().all():
            raise ModelError(
                f"graft: the {whose}'s '{name}' must be finite, got values that are not; give a network "
                f"whose training did not diverge"
            )
    return layer_entropies([state[name] for name in names])
