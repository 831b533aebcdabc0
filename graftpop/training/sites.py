"""The sites of a network: its convolutions, each with the BatchNorm that consumes its output.

`find_sites` runs the network once on blank images and pairs a convolution with the BatchNorm that receives the very
tensor that the convolution returned. Module names are not used.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.forward_check import eval_copy, run_forward
from graftpop.models.layers import CONVOLUTIONS, NORMALIZATIONS
from graftpop.models.module_check import check_modules

__all__ = ["Site", "find_sites"]


@dataclass(frozen=True)
class Site:
    """Module names of a convolution and of the BatchNorm that consumes its output."""

    conv: str
    norm: str


def find_sites(
    network: nn.Module, image_shape: tuple[int, int, int], name: str, needed_by: str | None = "graft"
) -> list[Site]:
    """Return the sites of a network in module order.

    If several BatchNorms consume the output of one convolution, the first to run belongs to the site. Convolutions with
    a tied weight are one site, under the first of their names. A convolution whose weight is parametrized
    (`torch.nn.utils.parametrizations`) is none.

    Args:
        network: any module that maps images (B, C, H, W) to logits; it is not changed.
        image_shape: (C, H, W) of the images it will see.
        name: the user's name of the network, used in messages.
        needed_by: the key of a method that acts on sites; None: any network will do.

    Raises:
        ModelError: the network cannot take such images; or a method needs sites, and there is none or a parametrized
            convolution would be one.
    """
    where = f"model.name: '{name}'"
    check_modules(network, where)
    network_copy = eval_copy(network, where)
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

    owners: dict[int, str] = {}
    for module_name, module in network_copy.named_modules():
        if isinstance(module, CONVOLUTIONS):
            owner = owners.setdefault(id(module._parameters.get("weight", module)), module_name)
            module.register_forward_hook(lambda _, __, output, n=owner: leaves_conv(n, output))
        elif isinstance(module, NORMALIZATIONS):
            module.register_forward_pre_hook(lambda _, inputs, n=module_name: enters_norm(n, inputs[0]))
    run_forward(network_copy, image_shape, where)
    modules = dict(network_copy.named_modules())
    sites = [Site(conv, norm_of_conv[conv]) for conv in modules if conv in norm_of_conv]
    parametrized = [site for site in sites if "weight" not in modules[site.conv]._parameters]
    if needed_by is None:
        return [site for site in sites if site not in parametrized]
    if parametrized:
        raise ModelError(
            f"{where} must have plain weights for {needed_by}, got a parametrized weight in '{parametrized[0].conv}'; "
            f"remove the parametrization, or remove {needed_by}"
        )
    if not sites:
        raise ModelError(
            f"{where} has no site, a convolution whose output a BatchNorm consumes, but {needed_by} acts on sites; "
            f"choose a convolutional network with BatchNorm, or remove {needed_by}"
        )
    return sites
