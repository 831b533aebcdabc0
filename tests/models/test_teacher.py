"""Pretrained teachers give the logits of the saved network, or are refused in one line."""

import json
import pickle
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from network_makers import same_bits, seeded_network, trained_looking
from safetensors.torch import save_file
from torch import Tensor, nn

from graftpop.errors import CheckpointError, GraftpopError, ModelError
from graftpop.models import build, published
from graftpop.models.teacher import load_teacher
from graftpop.models.weight_file import read_weights
from graftpop.seeds import seeded
from graftpop.settings import TeacherSettings

WHERE = "distillation.teachers[0]"
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SHAPE = (3, 8, 8)


def load(
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = SHAPE,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    **settings: Any,
) -> nn.Module:
    return load_teacher(TeacherSettings.model_validate(settings), num_classes, image_shape, WHERE, mean=mean, std=std)


def failure(
    error: type[GraftpopError], num_classes: int = 10, image_shape: tuple[int, int, int] = SHAPE, **settings: Any
) -> str:
    """Return the message that refuses a teacher."""
    with pytest.raises(error) as caught:
        load(num_classes, image_shape, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{WHERE}.")
    return message


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def logits(network: nn.Module, pixels: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Return the logits of pixels in [0, 1]."""
    with torch.no_grad():
        return network((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained_looking("resnet8", 1).eval()


@pytest.fixture
def best(tmp_path: Path, network: nn.Module) -> Path:
    folder = tmp_path / "run" / "best"
    folder.mkdir(parents=True)
    card = {"model": "resnet8", "num_classes": 10, "image_shape": SHAPE, "mean": MEAN, "std": STD}
    (folder / "config.json").write_text(json.dumps(card))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def write_card(best: Path, **changes: Any) -> None:
    card = json.loads((best / "config.json").read_text())
    (best / "config.json").write_text(json.dumps(card | changes))


# teachers that are loaded


@pytest.mark.parametrize("model", [None, "resnet8"])
def test_best_network_of_a_run_gives_its_logits(best: Path, network: nn.Module, model: str | None) -> None:
    teacher = load(checkpoint=str(best), model=model)
    pixels = images(4, *SHAPE)
    assert torch.equal(logits(teacher, pixels), logits(network, pixels))


def test_teacher_is_frozen_and_does_not_change_the_global_generator(best: Path) -> None:
    write_card(best, mean=[0.0, 0.0, 0.0])
    with seeded(7, torch.device("cpu")):
        expected = torch.rand(3)
    with seeded(7, torch.device("cpu")):
        teacher = load(checkpoint=str(best))
        assert torch.equal(torch.rand(3), expected)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(images(2, *SHAPE)).requires_grad


@pytest.mark.parametrize(
    ("mean", "std"), [((0.1, 0.2, 0.3), (0.9, 0.8, 0.7)), (MEAN, (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), STD)]
)
def test_teacher_of_another_normalization_gets_renormalized_images(
    best: Path, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    write_card(best, mean=mean, std=std)
    pixels = images(4, *SHAPE)
    teacher = load(checkpoint=str(best))
    torch.testing.assert_close(logits(teacher, pixels), logits(network, pixels, mean, std), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(network, pixels), logits(network, pixels, mean, std), rtol=1e-2, atol=1e-2)


def in_parallel(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def of_old_torch(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "best.pth.tar"])
@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        in_parallel,
        of_old_torch,
        lambda weights: {"state_dict": weights, "epoch": 7},
        lambda weights: {"model": weights, "args": {"lr": 0.1}},
        lambda weights: {"net": in_parallel(weights), "acc": 93.5},
        lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
    ],
    ids=["bare", "parallel", "old_torch", "state_dict", "model", "net", "model_state_dict"],
)
def test_weights_are_read_from_a_file_of_torch(
    tmp_path: Path, network: nn.Module, name: str, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    torch.save(wrap(network.state_dict()), tmp_path / name)
    teacher = load(checkpoint=str(tmp_path / name), model="resnet8")
    assert same_bits(of_old_torch(teacher.state_dict()), of_old_torch(network.state_dict()))


def test_weights_are_read_from_a_legacy_torch_file(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same_bits(load(checkpoint=str(tmp_path / "old.pth"), model="resnet8").state_dict(), network.state_dict())


def test_weights_are_read_from_a_safetensors_file(best: Path, network: nn.Module) -> None:
    teacher = load(checkpoint=str(best / "model.safetensors"), model="resnet8")
    assert same_bits(teacher.state_dict(), network.state_dict())


def test_partial_prefix_is_kept(tmp_path: Path) -> None:
    weights = {"module.weight": torch.ones(2), "bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "weights.pt")
    assert same_bits(read_weights(tmp_path / "weights.pt"), weights)


# teachers that are refused


def test_absent_checkpoint_is_named(tmp_path: Path) -> None:
    message = failure(CheckpointError, checkpoint=str(tmp_path / "none.pt"), model="resnet8")
    assert message.startswith(f"{WHERE}.checkpoint: ")
    assert f"got '{tmp_path / 'none.pt'}'; " in message


def test_folder_without_a_network_is_named(tmp_path: Path, best: Path) -> None:
    assert "No such file" in failure(CheckpointError, checkpoint=str(best.parent))
    (best / "config.json").write_text('{"architecture": "resnet18"}')
    message = failure(CheckpointError, checkpoint=str(best))
    assert message.startswith(f"{WHERE}.checkpoint: {best}: ")
    assert "image_shape, mean, model, num_classes, std" in message
    assert "best/" in message


def test_model_other_than_that_of_the_checkpoint_is_refused(best: Path) -> None:
    message = failure(CheckpointError, checkpoint=str(best), model="resnet20")
    assert message.startswith(f"{WHERE}.model: ")
    assert "'resnet8'" in message
    assert "got 'resnet20'; " in message


def test_card_with_an_unknown_model_is_refused(best: Path) -> None:
    write_card(best, model="resnet9")
    message = failure(CheckpointError, checkpoint=str(best))
    assert message.startswith(f"{WHERE}.checkpoint: {best / 'config.json'}: model: ")
    assert "'resnet9'" in message


def test_file_of_weights_without_a_known_model_is_refused(best: Path) -> None:
    file = str(best / "model.safetensors")
    for model, value in ((None, "null"), ("resnet9", "'resnet9'")):
        message = failure(ModelError, checkpoint=file, model=model)
        assert message.startswith(f"{WHERE}.model: ")
        assert value in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99, 0.9999])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "old.pt"])
def test_truncated_file_is_named(tmp_path: Path, network: nn.Module, name: str, share: float) -> None:
    file = tmp_path / name
    if name == "weights.safetensors":
        save_file(network.state_dict(), file)
    else:
        torch.save(network.state_dict(), file, _use_new_zipfile_serialization=name != "old.pt")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    message = failure(CheckpointError, checkpoint=str(file), model="resnet8")
    assert message.startswith(f"{WHERE}.checkpoint: {file}: ")


def test_run_with_truncated_weights_is_named(best: Path) -> None:
    file = best / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    message = failure(CheckpointError, checkpoint=str(best))
    assert message.startswith(f"{WHERE}.checkpoint: {best}: ")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x80\x02]q\x00.",
        bytes(100),
        pickle.dumps({"weight": [1.0]}, 2),
    ],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_file_of_another_format_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    message = failure(CheckpointError, checkpoint=str(tmp_path / name), model="resnet8")
    assert message.startswith(f"{WHERE}.checkpoint: {tmp_path / name}: ")


def test_pickled_network_is_not_unpickled(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network, tmp_path / "network.pt")
    message = failure(CheckpointError, checkpoint=str(tmp_path / "network.pt"), model="resnet8")
    assert message.startswith(f"{WHERE}.checkpoint: {tmp_path / 'network.pt'}: ")
    assert "network.state_dict()" in message
    assert "weights_only" not in message  # torch's advice to run the code


@pytest.mark.parametrize(
    "content", [{}, [], torch.ones(3), {"weight": 1.0}, {"state_dict": {}}, {"weight": torch.ones(3), "epoch": 3}]
)
def test_file_of_torch_without_a_state_dict_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    message = failure(CheckpointError, checkpoint=str(tmp_path / "weights.pt"), model="resnet8")
    assert message.startswith(f"{WHERE}.checkpoint: {tmp_path / 'weights.pt'}: ")
    assert "state_dict" in message


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt: .*No such file or directory; "):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("saved", "model", "reason"),
    [
        ("resnet20", "resnet8", "layer1.1.conv1.weight .*, and 71 more "),
        ("resnet8", "resnet20", "layer1.1.conv1.weight .*, and 59 more "),
        ("vgg16", "resnet8", "conv1.weight .*, and "),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path: Path, saved: str, model: str, reason: str) -> None:
    torch.save(seeded_network(saved).state_dict(), tmp_path / "weights.pt")
    message = failure(CheckpointError, checkpoint=str(tmp_path / "weights.pt"), model=model)
    assert message.startswith(f"{WHERE}.checkpoint: {tmp_path / 'weights.pt'}: ")
    assert re.search(f"'{model}': {reason}", message)
    assert f"{WHERE}.model" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"linear.weight": (99, 32), "linear.bias": (99,)},
            "linear.weight has shape (99, 32), not (10, 64), and 1 more",
        ),
        (
            {"linear.weight": (99, 64), "linear.bias": (50,)},
            "linear.weight has shape (99, 64), not (10, 64), and 1 more",
        ),
        ({"linear.bias": ()}, "linear.bias has shape (), not (10,); "),
        ({"conv1.weight": (8, 3, 3, 3)}, "conv1.weight has shape (8, 3, 3, 3), not (16, 3, 3, 3); "),
    ],
)
def test_weights_of_other_shapes_are_refused(
    tmp_path: Path, network: nn.Module, changes: dict[str, tuple[int, ...]], reason: str
) -> None:
    weights = network.state_dict() | {name: torch.zeros(shape) for name, shape in changes.items()}
    torch.save(weights, tmp_path / "weights.pt")
    message = failure(CheckpointError, checkpoint=str(tmp_path / "weights.pt"), model="resnet8")
    assert f"'resnet8': {reason}" in message


def test_teacher_of_other_classes_is_refused(tmp_path: Path, best: Path) -> None:
    with seeded(0, torch.device("cpu")):
        torch.save(build("resnet8", 100).state_dict(), tmp_path / "weights.pt")
    message = failure(ModelError, checkpoint=str(tmp_path / "weights.pt"), model="resnet8")
    assert re.fullmatch(
        rf"{re.escape(f'{WHERE}.checkpoint: {tmp_path}/weights.pt')}: .* 10 classes .*, got 100; .*", message
    )
    message = failure(ModelError, 100, checkpoint=str(best))
    assert re.fullmatch(rf"{re.escape(f'{WHERE}.checkpoint: {best}')}: .* 100 classes .*, got 10; .*", message)
    for name in ("torchvision:resnet18", "torchvision:efficientnet_v2_l"):
        message = failure(ModelError, model=name, pretrained=True)
        assert re.fullmatch(rf"{re.escape(f'{WHERE}.pretrained: {name}')}: .* 10 classes .*, got 1000; .*", message)


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 8, 8)])
def test_teacher_of_unsuitable_image_size_is_refused(tmp_path: Path, image_shape: tuple[int, int, int]) -> None:
    with seeded(0, torch.device("cpu")):
        torch.save(build("torchvision:squeezenet1_1", 10).state_dict(), tmp_path / "weights.pt")
    message = failure(
        ModelError, image_shape=image_shape, checkpoint=str(tmp_path / "weights.pt"), model="torchvision:squeezenet1_1"
    )
    assert message.startswith(f"{WHERE}.checkpoint: ")
    assert f" {image_shape}: " in message


@pytest.mark.parametrize(
    "settings", [{"epochs": 3}, {}, {"checkpoint": "a.pt", "pretrained": True}, {"checkpoint": "a.pt", "epochs": 3}]
)
def test_settings_without_one_weight_source_raise_value_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(WHERE)):
        load(**settings)


# published weights, from the caches of the libraries


@pytest.fixture
def torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torchvision an empty cache and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def timm_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give timm an empty cache and no network."""
    pytest.importorskip("timm")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    return folder


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_weights_of_torchvision_use_the_normalization_of_imagenet(torch_cache: Path) -> None:
    name = "shufflenet_v2_x0_5"
    with seeded(3, torch.device("cpu")):
        network = build(f"torchvision:{name}", 1000).eval()
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    torch.save(network.state_dict(), torch_cache / url.rpartition("/")[2])
    pixels = images(2, 3, 32, 32)
    plain = load(1000, (3, 32, 32), *IMAGENET, model=f"torchvision:{name}", pretrained=True)
    assert same_bits(plain.state_dict(), network.state_dict())
    assert not any(module.training for module in plain.modules())
    teacher = load(1000, (3, 32, 32), model=f"torchvision:{name}", pretrained=True)
    torch.testing.assert_close(logits(teacher, pixels), logits(network, pixels, *IMAGENET), rtol=1e-4, atol=1e-4)


def test_weights_of_timm_use_their_own_normalization(timm_cache: Path) -> None:
    with seeded(3, torch.device("cpu")):
        network = build("timm:test_resnet", 1000).eval()
    save_file(network.state_dict(), timm_cache / "model.safetensors")
    pixels = images(2, 3, 32, 32)
    teacher = load(1000, (3, 32, 32), model="timm:test_resnet", pretrained=True)
    own = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    torch.testing.assert_close(logits(teacher, pixels), logits(network, pixels, *own), rtol=1e-4, atol=1e-4)


def test_undownloadable_weights_are_named(torch_cache: Path) -> None:
    message = failure(ModelError, 1000, model="torchvision:resnet18", pretrained=True)
    assert message.startswith(f"{WHERE}.pretrained: torchvision:resnet18: ")
    assert "<urlopen error " in message
    assert "checkpoint" in message.rpartition("; ")[2]


def test_download_that_hangs_times_out(torch_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SOCKET_LIMIT_S", 0.2)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers an earlier test's proxy
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait to be accepted
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "timed out" in failure(ModelError, 1000, model="torchvision:resnet18", pretrained=True)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("content", [None, b"cut"])
def test_absent_weights_of_timm_are_named(timm_cache: Path, content: bytes | None) -> None:
    if content is not None:
        (timm_cache / "model.safetensors").write_bytes(content)
    message = failure(ModelError, 1000, model="timm:test_resnet", pretrained=True)
    assert message.startswith(f"{WHERE}.pretrained: timm:test_resnet: ")


def test_unsuitable_timm_networks_are_refused(timm_cache: Path) -> None:
    message = failure(ModelError, 1000, model="timm:resnetv2_152", pretrained=True)
    assert message.startswith(f"{WHERE}.pretrained: timm:resnetv2_152: ")
    assert "timm.list_pretrained()" in message
    message = failure(ModelError, model="timm:resnet18.a1_in1k", pretrained=True)
    assert message.startswith(f"{WHERE}.pretrained: timm:resnet18.a1_in1k: ")
    assert "got 1000; " in message


@pytest.mark.parametrize("model", [None, "resnet8"])
def test_pretrained_without_a_network_of_a_library_is_refused(model: str | None) -> None:
    message = failure(ModelError, model=model, pretrained=True)
    assert message.startswith(f"{WHERE}.model: ")
    assert "torchvision:NAME or timm:NAME" in message
    assert f"got {model or 'null'}; " in message


def test_unknown_library_network_is_refused_with_the_closest(timm_cache: Path) -> None:
    for name, closest in [("torchvision:resnet19", "torchvision:resnet18"), ("timm:resnet19", "timm:resnet")]:
        message = failure(ModelError, 1000, model=name, pretrained=True)
        assert message.startswith(f"{WHERE}.model: ")
        assert f"got '{name}'" in message
        assert closest in message
