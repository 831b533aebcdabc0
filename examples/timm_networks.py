"""Small networks of timm without BatchNorm, for images of 32x32 pixels.

    python -m graftpop.tune --space search_spaces/cifar.yaml --set model.name=python:examples.timm_networks.MlpMixer

Every weight is grafted: with `graft.sites: auto`, a network whose convolutions with BatchNorm hold less than 90 % of
the parameters has an alpha for each of its weights, and for query, key and value by themselves.
"""

from timm.layers import GroupNorm
from timm.models import convnext, mlp_mixer, resnet, vision_transformer

from graftpop.sites import alpha_share, find_sites

__all__ = ["ConvNeXt", "GroupNormResNet", "MlpMixer", "VisionTransformer"]


class VisionTransformer(vision_transformer.VisionTransformer):
    """ViT-tiny with 6 of its 12 blocks and patches of 4 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(img_size=32, patch_size=4, embed_dim=192, depth=6, num_heads=3, num_classes=num_classes)


class ConvNeXt(convnext.ConvNeXt):
    """ConvNeXt-atto with a stem of 2 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes, patch_size=2, depths=(2, 2, 6, 2), dims=(40, 80, 160, 320), conv_mlp=True
        )


class GroupNormResNet(resnet.ResNet):
    """ResNet-18 of half the width, with GroupNorm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            resnet.BasicBlock,
            layers=(2, 2, 2, 2),
            channels=(32, 64, 128, 256),
            norm_layer=GroupNorm,
            num_classes=num_classes,
        )


class MlpMixer(mlp_mixer.MlpMixer):
    """MLP-Mixer of four blocks with patches of 4 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(img_size=32, patch_size=4, num_blocks=4, embed_dim=256, num_classes=num_classes)


if __name__ == "__main__":
    for build in (VisionTransformer, ConvNeXt, GroupNormResNet, MlpMixer):
        network = build(num_classes=10)
        sites = find_sites(network, (3, 32, 32), build.__name__)
        share = alpha_share(network, sites)
        print(f"{build.__name__}: {len(sites)} sites with {share:.1%} of the parameters")
