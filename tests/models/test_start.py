"""Peers start from published weights or from a checkpoint, but for an output layer of other classes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from network_makers import same_bits, seeded_network, trained_looking
from safetensors.torch import save_file
from torch import Tensor, nn

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import build
from graftpop.models.normalization import Normalization
from graftpop.models.start import Start, find_start
from graftpop.seeds import seeded
from graftpop.settings import ModelSettings

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def started(num_classes: int = 10, **model: Any) -> tuple[nn.Module, str | None]:
    """Return a network that starts from weights, and the note on its output layer."""
    settings = ModelSettings.model_validate(model)
    start = find_start(settings)
    assert start is not None
    network = new_network(settings, num_classes)
    with seeded(7, torch.device("cpu")):
        expected = torch.rand(3)
    with seeded(7, torch.device("cpu")):
        note = start.load_into_(network, num_classes, settings.name)
        assert torch.equal(torch.rand(3), expected)  # the global generator does not move
    return network, note


def new_network(settings: ModelSettings, num_classes: int) -> nn.Module:
    with seeded(5, torch.device("cpu")):
        return build(settings.name, num_classes, args=settings.args)


def refusal(error: type[Exception], num_classes: int = 10, **model: Any) -> str:
    with pytest.raises(error) as caught:
        started(num_classes, **model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def best_of(folder: Path, network: nn.Module, **changes: Any) -> str:
    card = {"model": "resnet8", "num_classes": 10, "image_shape": [3, 8, 8], "mean": [0.1] * 3, "std": [0.9] * 3}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(card | changes))
    save_file(network.state_dict(), folder / "model.safetensors")
    return str(folder)


def new_names(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, weights[name])]


# checkpoints


@pytest.mark.parametrize("suffix", ["best", "weights.pt", "weights.safetensors"])
def test_equal_classes_keep_every_weight(tmp_path: Path, suffix: str) -> None:
    trained = trained_looking("resnet8", 1)
    place = tmp_path / suffix
    if suffix == "best":
        best_of(place, trained)
    elif suffix == "weights.pt":
        torch.save({"state_dict": trained.state_dict()}, place)
    else:
        save_file(trained.state_dict(), place)
    network, note = started(name="resnet8", checkpoint=str(place))
    assert same_bits(network.state_dict(), trained.state_dict())
    assert note is None


def test_output_layer_of_other_classes_keeps_its_initial_weights(tmp_path: Path) -> None:
    trained = trained_looking("resnet8", 1)
    best = best_of(tmp_path / "best", trained)
    network, note = started(4, name="resnet8", checkpoint=best)
    own = new_network(ModelSettings(name="resnet8"), 4).state_dict()
    for name, tensor in network.state_dict().items():
        is_new = name in ("linear.weight", "linear.bias")
        assert torch.equal(tensor, (own if is_new else trained.state_dict())[name]), name
    assert note is not None
    assert note.startswith(f"model.checkpoint: {best}: ")
    assert re.search(r"\b10 classes .*\b4 classes.*linear\.weight, linear\.bias$", note)


def test_weights_of_a_run_bring_their_normalization_and_those_of_a_file_none(tmp_path: Path) -> None:
    best = best_of(tmp_path / "best", trained_looking("resnet8", 1))
    start = find_start(ModelSettings(name="resnet8", checkpoint=best))
    assert start is not None
    assert start.normalization == ((0.1,) * 3, (0.9,) * 3)
    start = find_start(ModelSettings(name="resnet8", checkpoint=f"{best}/model.safetensors"))
    assert start is not None
    assert start.normalization is None


@pytest.mark.parametrize(
    ("saved", "name", "difference"),
    [
        ("resnet20", "resnet8", r"layer1\.1\.conv1\.weight is unexpected, and 71 more "),
        ("resnet8", "resnet20", r"layer1\.1\.conv1\.weight is missing, and 59 more "),
        ("vgg16", "resnet8", r"conv1\.weight is missing, and "),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path: Path, saved: str, name: str, difference: str) -> None:
    torch.save(seeded_network(saved).state_dict(), tmp_path / "weights.pt")
    message = refusal(CheckpointError, name=name, checkpoint=str(tmp_path / "weights.pt"))
    assert message.startswith(f"model.checkpoint: {tmp_path / 'weights.pt'}: ")
    assert re.search(f"'{name}': {difference}", message)
    assert "model.name" in message


def test_weights_without_an_output_layer_are_refused(tmp_path: Path) -> None:
    weights = seeded_network("resnet8").state_dict()
    torch.save({name: weights[name] for name in weights if "linear" not in name}, tmp_path / "weights.pt")
    assert "linear.weight is missing, and 1 more " in refusal(
        CheckpointError, name="resnet8", checkpoint=str(tmp_path / "weights.pt")
    )


def test_unreadable_checkpoints_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.pt").write_bytes(b"PK")
    for name in ("none.pt", "empty", "cut.pt"):
        message = refusal(CheckpointError, name="resnet8", checkpoint=str(tmp_path / name))
        assert message.startswith("model.checkpoint: ")
        assert str(tmp_path / name) in message


# published weights, from the caches of the libraries


def published(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, **args: Any) -> nn.Module:
    """Put seeded weights into torchvision's cache, as those that are published for a classifier."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with seeded(3, torch.device("cpu")):
        network = torchvision.models.get_model(name, weights=None, num_classes=1000, **args)
        for module in network.modules():  # torch's initial weights would make logits independent of the image
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    torch.save(network.state_dict(), folder / url.rpartition("/")[2])
    return network


def test_published_weights_of_torchvision_keep_a_new_output_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = published(tmp_path, "shufflenet_v2_x0_5", monkeypatch).state_dict()
    model = "torchvision:shufflenet_v2_x0_5"
    start = find_start(ModelSettings(name=model, pretrained=True))
    assert start is not None
    assert start.normalization == IMAGENET
    network, note = started(name=model, pretrained=True)
    own = new_network(ModelSettings(name=model), 10).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, own[name] if name.startswith("fc.") else weights[name]), name
    assert note is not None
    assert note.startswith("model.pretrained: torchvision:shufflenet_v2_x0_5: ")
    assert re.search(r"\b1000 classes .*\b10 classes.*fc\.weight, fc\.bias$", note)
    network, note = started(1000, name=model, pretrained=True)
    assert same_bits(network.state_dict(), weights)
    assert note is None


@pytest.mark.parametrize("args", [{}, {"transform_input": True}])
def test_inception_normalizes_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: dict[str, bool]
) -> None:
    """Torchvision's network with published weights converts ImageNet's normalization; a rebuilt one does not."""
    published(tmp_path, "googlenet", monkeypatch, aux_logits=True, init_weights=False)
    model = ModelSettings.model_validate({"name": "torchvision:googlenet", "pretrained": True, "args": args})
    network, _ = started(1000, **model.model_dump())
    start = find_start(model)
    assert start is not None
    assert start.normalization == (IMAGENET if args else ((0.5,) * 3, (0.5,) * 3))
    pixels = torch.rand(2, 3, 64, 64)
    full = torchvision.models.get_model("googlenet", weights="DEFAULT").eval()

    def normalized(mean: Any, std: Any) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.no_grad():
        logits = network.eval()(normalized(*start.normalization))
        torch.testing.assert_close(logits, full(normalized(*IMAGENET)), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits, full(pixels), rtol=1e-2, atol=1e-2)


def test_published_weights_of_timm_are_adapted_by_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    with seeded(3, torch.device("cpu")):
        weights = build("timm:test_vit", 1000).state_dict()
    save_file(weights, folder / "model.safetensors")

    network, note = started(name="timm:test_vit", pretrained=True, args={"img_size": 32, "drop_rate": 0.1})
    state = network.state_dict()
    assert note is not None
    changed = {name for name in state if state[name].shape != weights[name].shape}
    assert changed == {"pos_embed", "head.weight", "head.bias"}  # timm resamples positions
    assert all(torch.equal(state[name], weights[name]) for name in state if name not in changed)
    assert any(module.p == 0.1 for module in network.modules() if isinstance(module, nn.Dropout))
    start = find_start(ModelSettings(name="timm:test_vit", pretrained=True))
    assert start is not None
    assert start.normalization == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    message = refusal(ModelError, name="timm:test_vit", pretrained=True, args={"depth": 3})
    assert message.startswith("model.pretrained: timm:test_vit: ")
    assert "blocks." in message


def test_published_weights_without_an_output_layer_get_a_new_one() -> None:
    trained = trained_looking("resnet8", 1)
    weights = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("linear.")}
    start = Start("model.pretrained: x", Normalization(*IMAGENET), lambda: weights, has_head=False)
    network = new_network(ModelSettings(name="resnet8"), 10)
    note = start.load_into_(network, 10, "resnet8")
    assert note is not None
    assert "linear.weight, linear.bias" in note
    assert new_names(network, trained.state_dict()) == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize("name", ["resnet8", "python:network_makers.TwoSites"])
def test_pretrained_needs_a_network_of_a_library(name: str) -> None:
    message = refusal(ModelError, name=name, pretrained=True)
    assert message.startswith("model.name: ")
    assert f"got {name}; " in message


def test_weights_that_are_not_published_are_refused() -> None:
    pytest.importorskip("timm")
    message = refusal(ModelError, name="timm:resnetv2_152", pretrained=True)
    assert message.startswith("model.pretrained: timm:resnetv2_152: ")
    assert "timm.list_pretrained()" in message
