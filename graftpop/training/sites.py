"""Where a network can be grafted: its convolutions, each with the BatchNorm that consumes its output.

Sites are found by running the network once on blank images and watching which BatchNorm is handed the very tensor that
a convolution returned. Names play no part.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.forward_check import eval_copy, run_forward
from graftpop.models.layers import CONVOLUTIONS, NORMALIZATIONS

__all__ = ["Site", "find_sites"]


@dataclass(frozen=True)
class Site:
    """One convolution and the BatchNorm behind it, by their module names."""

    conv: str
    norm: str


def find_sites(network: nn.Module, image_shape: tuple[int, int, int], name: str) -> list[Site]:
    """Return the sites of a network in module order.

    Args:
        network: any module from images (B, C, H, W) to logits; it is not changed.
        image_shape: (C, H, W) of what it will see.
        name: what the user calls it, for messages.

    Raises:
        ModelError: the network cannot take such images, or has no convolution whose output a BatchNorm consumes.
    """
    twin = eval_copy(network)
    conv_of_output: dict[int, tuple[str, int]] = {}
    outputs: list[Tensor] = []  # kept alive, so that no two of them share an id
    norm_of_conv: dict[str, str] = {}

    def leaves_conv(conv_name: str, output: Tensor) -> None:
        conv_of_output[id(output)] = conv_name, output._version
        outputs.append(output)

    def enters_norm(norm_name: str, output: Tensor) -> None:
        conv_name, version = conv_of_output.get(id(output), (None, 0))
        if conv_name is not None and output._version == version:  # changed in place (ReLU, a sum), it is another value
            norm_of_conv.setdefault(conv_name, norm_name)

    for module_name, module in twin.named_modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(lambda _, __, output, n=module_name: leaves_conv(n, output))
        elif isinstance(module, NORMALIZATIONS):
            module.register_forward_pre_hook(lambda _, inputs, n=module_name: enters_norm(n, inputs[0]))
    run_forward(twin, image_shape, f"model.name: '{name}'")
    sites = [Site(conv, norm_of_conv[conv]) for conv, _ in twin.named_modules() if conv in norm_of_conv]
    if not sites:
        raise ModelError(
            f"model.name: '{name}' has no site, a convolution whose output a BatchNorm consumes, so there "
            f"is nothing to graft; choose a convolutional network with BatchNorm"
        )
    return sites
