"""The sites of a network: its convolutions, each with the BatchNorm that consumes its output.

`find_sites` runs the network once on blank images and pairs a convolution with the BatchNorm that receives the very
tensor that the convolution returned. Module names are not used.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.forward_check import eval_copy, run_forward
from graftpop.models.layers import CONVOLUTIONS, NORMALIZATIONS

__all__ = ["Site", "find_sites"]


@dataclass(frozen=True)
class Site:
    """Module names of a convolution and of the BatchNorm that consumes its output."""

    conv: str
    norm: str


def find_sites(network: nn.Module, image_shape: tuple[int, int, int], name: str) -> list[Site]:
    """Return the sites of a network in module order.

    If several BatchNorms consume the output of one convolution, the first to run belongs to the site.

    Args:
        network: any module that maps images (B, C, H, W) to logits; it is not changed.
        image_shape: (C, H, W) of the images it will see.
        name: the user's name of the network, used in messages.

    Raises:
        ModelError: the network cannot take such images, or has no site.
    """
    network_copy = eval_copy(network)
    conv_of_output: dict[int, tuple[str, int]] = {}
    outputs: list[Tensor] = []  # kept alive, so that no id is used twice
    norm_of_conv: dict[str, str] = {}

    def leaves_conv(conv_name: str, output: Tensor) -> None:
        conv_of_output[id(output)] = conv_name, output._version
        outputs.append(output)

    def enters_norm(norm_name: str, output: Tensor) -> None:
        conv_name, version = conv_of_output.get(id(output), (None, 0))
        if conv_name is not None and output._version == version:  # an in-place ReLU or sum changed it
            norm_of_conv.setdefault(conv_name, norm_name)

    for module_name, module in network_copy.named_modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(lambda _, __, output, n=module_name: leaves_conv(n, output))
        elif isinstance(module, NORMALIZATIONS):
            module.register_forward_pre_hook(lambda _, inputs, n=module_name: enters_norm(n, inputs[0]))
    run_forward(network_copy, image_shape, f"model.name: '{name}'")
    sites = [Site(conv, norm_of_conv[conv]) for conv, _ in network_copy.named_modules() if conv in norm_of_conv]
    if not sites:
        raise ModelError(
            f"model.name: '{name}' has no site, a convolution whose output a BatchNorm consumes, so there "
            f"is nothing to graft; choose a convolutional network with BatchNorm"
        )
    return sites
