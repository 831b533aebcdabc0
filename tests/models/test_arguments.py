"""Arguments of a network's builder reach the network, or are refused in one line."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from network_makers import WithDropout, same_bits
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import StochasticDepth

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import build
from graftpop.models.network_file import load_network, read_network
from graftpop.models.teacher import load_teacher
from graftpop.settings import ModelSettings, TeacherSettings

VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 3}
USER = f"python:{WithDropout.__module__}.WithDropout"


def dropout_rates(network: nn.Module) -> set[float]:
    return {module.p for module in network.modules() if isinstance(module, nn.Dropout)}


def test_arguments_of_timm_set_dropout_drop_path_and_sizes() -> None:
    layers = pytest.importorskip("timm.layers")
    network = build("timm:vit_tiny_patch16_224", 10, args={**VIT, "drop_rate": 0.25, "drop_path_rate": 0.5})
    assert 0.25 in dropout_rates(network)
    paths = [module.drop_prob for module in network.modules() if isinstance(module, layers.DropPath)]
    assert paths == [0.5, 0.5]
    images = torch.rand(16, 3, 8, 8)
    with torch.no_grad():
        assert not torch.equal(network(images), network(images))
        assert torch.equal(network.eval()(images), network(images))


def test_arguments_of_torchvision_set_dropout_and_stochastic_depth() -> None:
    args = {"dropout": 0.25, "stochastic_depth_prob": 0.5}
    network = build("torchvision:efficientnet_b0", 10, args=args)
    assert dropout_rates(network) == {0.25}
    assert max(module.p for module in network.modules() if isinstance(module, StochasticDepth)) == pytest.approx(
        0.5 * 15 / 16
    )
    auxiliary = build("torchvision:googlenet", 10, args={"dropout": 0.1, "dropout_aux": 0.5})
    assert dropout_rates(auxiliary) == {0.1}


def test_width_of_vgg16_scales_every_layer() -> None:
    widths, whole = (
        [module.out_channels for module in build("vgg16", 10, args=args).modules() if isinstance(module, nn.Conv2d)]
        for args in ({"width": 8}, {})
    )
    assert [8 * width for width in widths] == whole
    assert len(set(whole)) == 4


def test_arguments_of_a_class_follow_the_number_of_classes() -> None:
    network = build(USER, 7, args={"rate": 0.25, "widths": [3, 4]})
    assert isinstance(network, WithDropout)
    assert (dropout_rates(network), network.widths) == ({0.25}, [3, 4])
    assert network.classifier.out_features == 7


@pytest.mark.parametrize(
    ("name", "args", "parts"),
    [
        ("resnet8", {"dropout": 0.5}, ["resnet8", "got dropout", "choose from none"]),
        ("vgg16", {"widht": 8}, ["vgg16", "got widht", "choose from width", "did you mean 'width'"]),
        ("vgg16", {"width": "wide"}, ["'vgg16'", "'wide'", "TypeError"]),
        ("torchvision:resnet18", {"dropout": 0.5}, ["'torchvision:resnet18'", "TypeError", "'dropout'"]),
        ("torchvision:vit_b_16", {"dropout": "much"}, ["'torchvision:vit_b_16'", "'much'"]),
        (USER, {"ratio": 0.5}, ["got ratio; choose from rate, widths", "did you mean 'rate'"]),
        ("resnet8", {"num_classes": 3}, ["num_classes", "classes"]),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, ["weights", "model.pretrained", "model.checkpoint"]),
        ("torchvision:resnet18", {"pretrained": True}, ["pretrained", "model.pretrained"]),
        ("torchvision:resnet18", {"checkpoint_path": "/x"}, ["checkpoint_path", "model.checkpoint"]),
    ],
)
@pytest.mark.parametrize(
    ("where", "key"),
    [("model.name", "model.args: "), ("distillation.teachers[0].model", "distillation.teachers[0].args: ")],
)
def test_argument_is_refused_with_its_key(
    name: str, args: dict[str, Any], parts: list[str], where: str, key: str
) -> None:
    with pytest.raises(ModelError) as caught:
        build(name, 10, where, args)
    message = str(caught.value)
    assert message.startswith(key)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_argument_that_timm_refuses_is_named() -> None:
    pytest.importorskip("timm")
    for args, part in (
        ({"foo": 1}, "'foo'"),
        ({"act_layer": "nope"}, "'nope'"),
        ({"pretrained_cfg": "x"}, "checkpoint"),
    ):
        with pytest.raises(ModelError, match=rf"^model\.args: .*{part}"):
            build("timm:vit_tiny_patch16_224", 10, args=args)


def test_null_leaves_an_argument_out() -> None:
    assert ModelSettings.model_validate({"args": {"rate": None, "widths": [1]}}).args == {"widths": [1]}


# cards


def best_of(folder: Path, network: nn.Module, args: dict[str, Any], model: str) -> Path:
    card = {"model": model, "num_classes": 10, "image_shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.2] * 3}
    (folder / "config.json").write_text(json.dumps(card | {"args": args}))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def test_network_is_rebuilt_with_the_arguments_of_its_card(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    network = build("timm:vit_tiny_patch16_224", 10, args=VIT)
    best = best_of(tmp_path, network, VIT, "timm:vit_tiny_patch16_224")
    loaded, card = read_network(best)
    assert card.args == VIT
    assert same_bits(loaded.state_dict(), network.state_dict())
    teacher = load_teacher(
        TeacherSettings(checkpoint=str(best)), 10, (3, 8, 8), "teachers[0]", mean=(0.5,) * 3, std=(0.2,) * 3
    )
    assert same_bits(teacher.state_dict(), network.state_dict())
    settings = TeacherSettings(checkpoint=str(best), args={**VIT, "img_size": 9})
    with pytest.raises(CheckpointError, match=r"^teachers\[0\]\.args: .*'img_size': 8.*'img_size': 9"):
        load_teacher(settings, 10, (3, 8, 8), "teachers[0]", mean=(0.5,) * 3, std=(0.2,) * 3)


def test_teacher_of_a_file_of_weights_is_built_with_its_arguments(tmp_path: Path) -> None:
    network = build("torchvision:mobilenet_v3_small", 10, args={"reduced_tail": True})
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    settings = TeacherSettings(
        model="torchvision:mobilenet_v3_small", args={"reduced_tail": True}, checkpoint=str(tmp_path / "weights.pt")
    )
    teacher = load_teacher(settings, 10, (3, 32, 32), "teachers[0]", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert same_bits(teacher.state_dict(), network.state_dict())


@pytest.mark.parametrize("args", [{"img_size": 30_000, "patch_size": 1}, {"depth": 10**9}, {"embed_dim": 3 * 10**8}])
def test_arguments_of_a_card_cannot_exceed_the_memory_of_its_file(tmp_path: Path, args: dict[str, Any]) -> None:
    pytest.importorskip("timm")
    best = best_of(tmp_path, build("timm:vit_tiny_patch16_224", 10, args=VIT), VIT | args, "timm:vit_tiny_patch16_224")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"more than \d+ (values|parameters)"):
        load_network(best)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_buffers_of_a_card_cannot_exceed_the_memory_of_its_file(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name, args = (
        "timm:swin_tiny_patch4_window7_224",
        {"img_size": 56, "depths": [1, 1], "embed_dim": 24, "num_heads": [1, 2]},
    )
    network = build(name, 10, args=args)
    assert same_bits(load_network(best_of(tmp_path, network, args, name)).state_dict(), network.state_dict())
    with pytest.raises(CheckpointError, match=r"more than \d+ (values|parameters)"):
        load_network(best_of(tmp_path, network, {**args, "img_size": 1600, "window_size": 200}, name))


@pytest.mark.parametrize(
    "args",
    [
        {"a": {"b": 1}},
        {"a": [[[1]]]},
        {"a": float("nan")},
        {"a": 10**400},
        {"a": "x" * 1000},
        {"a": "line\nbreak"},
        {"a-b": 1},
        {"a": [0] * 1000},
        {f"a{number}": number for number in range(100)},
        [1],
    ],
)
def test_card_with_other_arguments_than_plain_values_is_refused(tmp_path: Path, args: Any) -> None:
    with pytest.raises(CheckpointError, match=r"args must be a map of names to "):
        load_network(best_of(tmp_path, build(USER, 10), args, USER))


@pytest.mark.parametrize("args", [{"checkpoint_path": "/x"}, {"pretrained": True}, {"num_classes": 3}])
def test_card_cannot_make_a_builder_read_weights(tmp_path: Path, args: dict[str, Any]) -> None:
    name = "torchvision:mobilenet_v3_small"
    with pytest.raises(ModelError, match=rf"config\.json: args: .*{next(iter(args))}"):
        load_network(best_of(tmp_path, build(USER, 10), args, name))
