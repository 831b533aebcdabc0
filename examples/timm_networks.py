"""Small networks of timm without BatchNorm, for images of 32x32 pixels.

    python -m graftpop.tune --space search_spaces/cifar.yaml --set model.name=timm:vit_tiny_patch16_224 \
        --set 'model.args={img_size: 32, patch_size: 4, depth: 6}'
    python -m graftpop.tune --space search_spaces/cifar.yaml --set model.name=python:examples.timm_networks.MlpMixer

The arguments of most networks set their sizes. A network whose builder has no such arguments is a class.

Every weight is grafted: with `graft.sites: auto`, a network whose convolutions with BatchNorm hold less than 90 % of
the parameters has an alpha for each of its weights, and for query, key and value by themselves.
"""

from timm.models import mlp_mixer

from graftpop.models import build
from graftpop.sites import alpha_share, find_sites

__all__ = ["ARGS", "MlpMixer"]

ARGS = {
    "timm:vit_tiny_patch16_224": {"img_size": 32, "patch_size": 4, "depth": 6},
    "timm:convnext_atto": {"patch_size": 2},
    "timm:resnet18": {"channels": [32, 64, 128, 256], "norm_layer": "groupnorm"},
}


class MlpMixer(mlp_mixer.MlpMixer):
    """MLP-Mixer of four blocks with patches of 4 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(img_size=32, patch_size=4, num_blocks=4, embed_dim=256, num_classes=num_classes)


if __name__ == "__main__":
    networks = {name: build(name, 10, args=args) for name, args in ARGS.items()} | {"MlpMixer": MlpMixer(10)}
    for name, network in networks.items():
        sites = find_sites(network, (3, 32, 32), name)
        share = alpha_share(network, sites)
        print(f"{name}: {len(sites)} sites with {share:.1%} of the parameters")
