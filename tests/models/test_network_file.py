"""Checkpoints from untrusted sources: loading executes and downloads nothing, and takes bounded memory."""

import io
import json
import os
import pickle
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from network_makers import same_bits, trained_looking
from safetensors.torch import save, save_file
from torch import nn

from graftpop.errors import CheckpointError, GraftpopError
from graftpop.models.network_file import load_network, split_peer_file
from graftpop.models.weight_file import read_weights

CARD = {"model": "resnet8", "num_classes": 10, "image_shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained_looking("resnet8", 1).eval()


@pytest.fixture
def best(tmp_path: Path, network: nn.Module) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CARD))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def refusal(best: Path, card: Any) -> str:
    """Return the message that refuses a folder with this card."""
    (best / "config.json").write_text(card if isinstance(card, str) else json.dumps(card))
    with pytest.raises(GraftpopError) as caught:
        load_network(best)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Call:
    """Calls os.mkdir when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._folder),)


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# best/


def test_valid_folder_is_loaded(best: Path, network: nn.Module) -> None:
    assert same_bits(load_network(best).state_dict(), network.state_dict())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_classes": 10**12}, "num_classes must be in [1, 65536], got 1000000000000"),
        ({"num_classes": -1}, "num_classes must be in [1, 65536], got -1"),
        ({"num_classes": True}, "num_classes must be in [1, 65536], got True"),
        ({"num_classes": "10"}, "num_classes must be in [1, 65536], got '10'"),
        (
            {"image_shape": [3, 10**12, 10**12]},
            "[channels, height, width] for images, at most 100663296 in all, got [3, 1000000000000, 1000000000000]",
        ),
        ({"image_shape": []}, "[channels, height, width] for images, at most 100663296 in all, got []"),
        ({"image_shape": [3, 8.0, 8]}, "[channels, height, width] for images, at most 100663296 in all, got [3, 8.0"),
        ({"image_shape": "3, 8, 8"}, "[channels, height, width] for images, at most 100663296 in all, got '3, 8"),
        ({"input_dtype": "float16"}, "input_dtype must be float32 or int64, got 'float16'"),
        ({"mean": [0.5, float("nan"), 0.5]}, "mean must be three numbers, got [0.5, nan, 0.5]"),
        ({"mean": [10**400] * 3}, "mean must be three numbers, got "),
        ({"std": [0.2]}, "std must be three numbers above 0, got [0.2]"),
        ({"std": [0.2, 0, 0.2]}, "std must be three numbers above 0, got [0.2, 0, 0.2]"),
        ({"ensemble": 0}, "ensemble must be a number of networks, got 0"),
        ({"ensemble": "2"}, "ensemble must be a number of networks, got '2'"),
        ({"removed_filters": True}, "removed_filters must be a number of filters, got True"),
        ({"class_names": ["a", 3]}, "class_names must be a list of names, got ['a', 3]"),
        ({"model": ["resnet8"]}, "model must be a name, got ['resnet8']"),
        ({"model": "resnet8\nx"}, "model must be a name, got 'resnet8\\nx'"),
    ],
)
def test_card_with_an_invalid_value_is_refused(best: Path, changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(best, CARD | changes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 10**6, "nested too deep"),
        ("[]", "got list"),
        ("7", "got int"),
        ("{", "Expecting property name"),
        (" " * (2**24 + 1), "16777216 bytes, got more"),
        ('{"model": ' + "9" * 5000 + "}", "4300 digits"),
    ],
)
def test_invalid_card_text_is_refused(best: Path, text: str, reason: str) -> None:
    message = refusal(best, text)
    assert message.startswith(f"{best}: ")
    assert reason in message


@pytest.mark.parametrize(
    "model",
    [
        "timm:hf-hub:somebody/model",
        "timm:hf_hub:somebody/model",
        "timm:local-dir:/tmp",
        "timm:https://example.org/model",
        "torchvision:fasterrcnn_resnet50_fpn",
        "torchvision:../hub",
        "os.system",
        "__import__",
        "",
    ],
)
def test_card_with_an_address_as_architecture_is_refused(best: Path, model: str) -> None:
    if model.startswith("timm:"):
        pytest.importorskip("timm")
    message = refusal(best, CARD | {"model": model})
    assert message.startswith(f"{best}/config.json: model: ")
    assert f"'{model}'" in message


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("python:antigravity.Net", "import antigravity first"),
        ("python:os._exit", "python:MODULE.CLASS"),
        ("python:builtins.exec", "python:MODULE.CLASS"),
        ("python:json.JSONDecoder", "python:MODULE.CLASS"),
    ],
)
def test_card_imports_and_calls_network_classes_only(best: Path, model: str, reason: str) -> None:
    message = refusal(best, CARD | {"model": model})
    assert reason in message
    assert f"'{model}'" in message
    assert "antigravity" not in sys.modules


class UserNetwork(nn.Module):
    """A user-defined network."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)


def test_user_defined_class_needs_its_module_imported(best: Path) -> None:
    (best / "config.json").write_text(json.dumps(CARD | {"model": f"python:{UserNetwork.__module__}.UserNetwork"}))
    save_file(UserNetwork(10).state_dict(), best / "model.safetensors")
    assert type(load_network(best)) is UserNetwork
    save_file(UserNetwork(2).state_dict(), best / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors .* more than "):
        load_network(best)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "torchvision:regnet_y_128gf"}, " parameters"),
        ({"model": "vgg16"}, " parameters"),
        ({"num_classes": 65536}, " parameters"),
        ({"ensemble": 10**12}, " parameters"),
        ({"model": "torchvision:regnet_y_128gf", "removed_filters": 9}, "more than 150000000 parameters"),
    ],
)
def test_network_larger_than_its_file_is_not_built(best: Path, changes: dict[str, Any], reason: str) -> None:
    before = peak_kib()
    message = refusal(best, CARD | changes)
    assert "model.safetensors" in message
    assert reason in message
    assert peak_kib() - before < 2**20


def test_parameter_limit_ends_with_the_refused_network(best: Path) -> None:
    refusal(best, CARD | {"num_classes": 65536})
    assert nn.Linear(4096, 4096).weight.numel() == 2**24


def test_header_longer_than_its_file_is_refused(best: Path) -> None:
    content = (best / "model.safetensors").read_bytes()
    for length in (2**63, 2**40, len(content), 0):
        (best / "model.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
        assert refusal(best, CARD).startswith(f"{best}: ")


# files of weights


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def weights_refusal(file: Path, content: bytes) -> str:
    """Return the message that refuses a file of weights with this content."""
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_call_in_a_pickle_is_not_executed(tmp_path: Path, name: str) -> None:
    call = pickle.dumps({"weight": Call(tmp_path / "executed")}, 2)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    for content in (
        call,
        zipped({"data.pkl": call, "version": b"3\n", "byteorder": b"little"}),
        magic + call,
        magic + pickle.dumps({}, 2) + call,
    ):
        assert weights_refusal(tmp_path / name, content)
    assert not (tmp_path / "executed").exists()


def test_oversized_archive_is_refused_before_decompression(tmp_path: Path) -> None:
    bomb = zipped({"data.pkl": bytes(2**26), "version": b"3\n"}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**5
    assert "larger than the file" in weights_refusal(tmp_path / "weights.pt", bomb)


def test_storage_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(100.0)}, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    assert content.count(b"Kd") == 2  # 100, the size of the storage and of the tensor
    before = peak_kib()
    huge = b"\x8a\x06" + (10**13).to_bytes(6, "little")
    assert weights_refusal(tmp_path / "weights.pt", content.replace(b"Kd", huge))
    assert peak_kib() - before < 2**18


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"weight": torch.ones(2, 2).to_sparse()},
        lambda: {"weight": torch.ones(2, device="meta")},
        lambda: {7: torch.ones(2)},
        lambda: {"weight": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)},
    ],
    ids=["sparse", "meta", "number", "quantized"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch deprecates quantized tensors
def test_sparse_meta_and_quantized_tensors_are_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    torch.save(make(), tmp_path / "saved.pt")
    assert "state_dict" in weights_refusal(tmp_path / "weights.pt", (tmp_path / "saved.pt").read_bytes())


def test_tar_archive_is_not_opened(tmp_path: Path) -> None:
    message = weights_refusal(tmp_path / "weights.pt", b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(2000))
    assert "torch.save" in message


# peers' files


def test_peer_file_is_loaded_by_the_card_in_its_header(tmp_path: Path, network: nn.Module) -> None:
    file = tmp_path / "peer-1.safetensors"
    state = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    file.write_bytes(save(state | {"epoch": torch.tensor(3)}, {"model_card": json.dumps(CARD)}))
    assert same_bits(load_network(file).state_dict(), network.state_dict())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"peer-1\.safetensors: .*best/"):
        load_network(file)


@pytest.mark.parametrize("card", ["[" * 10**5, "[]", "7", "", json.dumps(CARD | {"num_classes": 10**12}), "{}"])
def test_peer_file_with_an_invalid_card_is_refused(card: str) -> None:
    with pytest.raises(CheckpointError, match=r"^checkpoint of a peer: ") as caught:
        split_peer_file(save({"network/weight": torch.ones(2)}, {"model_card": card}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, save({"weight": torch.ones(2)})])
def test_invalid_peer_file_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^checkpoint of a peer: "):
        split_peer_file(content)
