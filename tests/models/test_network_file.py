"""Checkpoints from anywhere: nothing in them is executed or downloaded, and their size bounds what they take."""

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
from graftpop.models.network_file import load_network, read_weights, split_peer_file

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
    (best / "config.json").write_text(card if isinstance(card, str) else json.dumps(card))
    with pytest.raises(GraftpopError) as caught:
        load_network(best)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Call:
    """Pickled, a call of os.mkdir."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._folder),)


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# best/


def test_a_sound_folder_is_loaded(best: Path, network: nn.Module) -> None:
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
            "image_shape must be [channels, height, width], at most 100663296 in all",
        ),
        ({"image_shape": [3, 8]}, "image_shape must be [channels, height, width], at most"),
        ({"image_shape": [3, 8.0, 8]}, "image_shape must be [channels, height, width], at most"),
        ({"image_shape": "3, 8, 8"}, "image_shape must be [channels, height, width], at most"),
        ({"mean": [0.5, float("nan"), 0.5]}, "mean and std must be three numbers each, got [0.5, nan, 0.5]"),
        ({"mean": [10**400] * 3}, "mean and std must be three numbers each, got "),
        ({"std": [0.2]}, "mean and std must be three numbers each, got "),
        ({"std": [0.2, 0, 0.2]}, "std must be above 0, got [0.2, 0, 0.2]"),
        ({"ensemble": 0}, "ensemble must be a number of networks, got 0"),
        ({"ensemble": "2"}, "ensemble must be a number of networks, got '2'"),
        ({"model": ["resnet8"]}, "model must be a name, got ['resnet8']"),
        ({"model": "resnet8\nx"}, "model must be a name, got 'resnet8\\nx'"),
    ],
)
def test_a_card_with_an_absurd_value_is_refused(best: Path, changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(best, CARD | changes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 10**6, "a card is nested too deep"),
        ("[]", "a card is a map, got list"),
        ("7", "a card is a map, got int"),
        ("{", "Expecting property name"),
        (" " * (2**24 + 1), "a card has at most 16777216 bytes, got more"),
        ('{"model": ' + "9" * 5000 + "}", "Exceeds the limit (4300 digits)"),
    ],
)
def test_what_is_no_card_is_refused(best: Path, text: str, reason: str) -> None:
    assert reason in refusal(best, text)


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
def test_a_card_names_an_architecture_and_never_an_address(best: Path, model: str) -> None:
    if model.startswith("timm:"):
        pytest.importorskip("timm")
    message = refusal(best, CARD | {"model": model})
    assert "config.json: model: " in message
    assert "not a classifier of" in message or "unknown name" in message


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("python:antigravity.Net", "no module is imported because a file names it; import antigravity first"),
        ("python:os._exit", "must be python:MODULE.CLASS, a class of torch.nn.Module"),
        ("python:builtins.exec", "must be python:MODULE.CLASS, a class of torch.nn.Module"),
        ("python:json.JSONDecoder", "must be python:MODULE.CLASS, a class of torch.nn.Module"),
    ],
)
def test_a_card_has_nothing_imported_and_nothing_called_but_a_class_of_networks(
    best: Path, model: str, reason: str
) -> None:
    assert reason in refusal(best, CARD | {"model": model})
    assert "antigravity" not in sys.modules


class Own(nn.Module):
    """A user's own network."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)


def test_a_class_of_ones_own_is_loaded_once_its_module_is_imported(best: Path) -> None:
    (best / "config.json").write_text(json.dumps(CARD | {"model": f"python:{Own.__module__}.Own"}))
    save_file(Own(10).state_dict(), best / "model.safetensors")
    assert type(load_network(best)) is Own
    save_file(Own(2).state_dict(), best / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is too small for this network"):
        load_network(best)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model": "torchvision:regnet_y_128gf"},
            "model.safetensors is too small for this network, which has more than ",
        ),
        ({"model": "vgg16"}, "model.safetensors is too small for this network, which has more than "),
        ({"num_classes": 65536}, "model.safetensors is too small for this network, which has more than "),
        ({"ensemble": 10**12}, "model.safetensors is too small for this network, which has more than "),
        ({"model": "torchvision:regnet_y_128gf", "removed_filters": 9}, "which has more than 150000000 "),
    ],
)
def test_a_network_that_is_larger_than_its_file_is_not_built(best: Path, changes: dict[str, Any], reason: str) -> None:
    before = peak_kib()
    assert reason in refusal(best, CARD | changes)
    assert peak_kib() - before < 2**20


def test_a_count_of_parameters_ends_with_the_network_it_was_for(best: Path) -> None:
    refusal(best, CARD | {"num_classes": 65536})
    assert nn.Linear(4096, 4096).weight.numel() == 2**24


def test_a_header_that_is_longer_than_its_file_is_refused(best: Path) -> None:
    content = (best / "model.safetensors").read_bytes()
    for length in (2**63, 2**40, len(content), 0):
        (best / "model.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
        assert "holds no network that can be loaded" in refusal(best, CARD)


# files of weights


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def weights_refusal(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_pickle_with_a_call_is_not_executed(tmp_path: Path, name: str) -> None:
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


def test_an_archive_that_inflates_is_refused_before_it_does(tmp_path: Path) -> None:
    bomb = zipped({"data.pkl": bytes(2**26), "version": b"3\n"}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**5
    assert "its content is larger than the file" in weights_refusal(tmp_path / "weights.pt", bomb)


def test_a_storage_that_says_it_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
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
    ids=["sparse", "meta", "number", "quantised"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, that quantised tensors will go
def test_tensors_that_are_no_plain_weights_are_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    torch.save(make(), tmp_path / "saved.pt")
    assert "weights.pt: " in weights_refusal(tmp_path / "weights.pt", (tmp_path / "saved.pt").read_bytes())


def test_a_tar_archive_is_not_opened(tmp_path: Path) -> None:
    message = weights_refusal(tmp_path / "weights.pt", b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(2000))
    assert "it does not begin as one of torch.save" in message


# peers' files


def test_a_peers_file_is_loaded_by_the_card_in_its_header(tmp_path: Path, network: nn.Module) -> None:
    file = tmp_path / "peer-1.safetensors"
    state = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    file.write_bytes(save(state | {"epoch": torch.tensor(3)}, {"model_card": json.dumps(CARD)}))
    assert same_bits(load_network(file).state_dict(), network.state_dict())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        CheckpointError,
        match=r"peer-1\.safetensors: holds no network that can be loaded: .*; give the "
        r"folder best/ of a run$",
    ):
        load_network(file)


@pytest.mark.parametrize("card", ["[" * 10**5, "[]", "7", "", json.dumps(CARD | {"num_classes": 10**12}), "{}"])
def test_a_peers_file_with_an_absurd_card_is_refused(card: str) -> None:
    with pytest.raises(CheckpointError, match="checkpoint of a peer: not readable: ") as caught:
        split_peer_file(save({"network/weight": torch.ones(2)}, {"model_card": card}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, save({"weight": torch.ones(2)})])
def test_what_is_no_peers_file_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="checkpoint of a peer: not readable: "):
        split_peer_file(content)
