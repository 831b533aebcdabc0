"""`graftpop export`: what is written is the network that was asked for, and its card says how to load it."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from network_makers import few_digits, same_bits
from run_makers import TRIAL, small_settings, trained_run, untrained_run
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import graftpop
from graftpop.__main__ import app
from graftpop.errors import ModelError
from graftpop.exporting.checks import check_alike, measure, measure_on_noise
from graftpop.models.network_file import read_any_weights

FORMATS = ("safetensors", "onnx", "torch-export")
SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder.parent / "summary.json").write_text(json.dumps(trained_run(folder, small_settings())))
    return folder


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run.parent / "summary.json").read_text())
    return summary


def exported(run: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["export", str(run), *options])


def export(run: Path, format: str, peer: str = "best") -> Path:
    """Export to the default folder, and return it."""
    ended = exported(run, "--format", format, "--peer", peer)
    assert ended.exit_code == 0, ended.output
    return run / "export" / f"{peer}-{format}"


def refusal(run: Path, *options: str) -> str:
    ended = exported(run, *options)
    assert ended.exit_code == 2, ended.output
    assert len(ended.stderr.splitlines()) == 1
    return ended.stderr


def checkpoint(run: Path) -> Path:
    (newest,) = (run / "tune" / "checkpoints" / TRIAL).iterdir()
    return newest


def peer_weights(run: Path, peer: int) -> dict[str, Tensor]:
    return read_any_weights(checkpoint(run) / f"peer-{peer}.safetensors")


def digits_to_test() -> tuple[Tensor, Tensor]:
    """Return the test digits as RGB in [0, 1], and their labels."""
    test = few_digits().test
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (few_digits().recipe.mean, few_digits().recipe.std))
    images, labels = next(test.evaluation_batches(test.num_images, torch.device("cpu")))
    return images * std + mean, labels


def normalized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (few_digits().recipe.mean, few_digits().recipe.std))
    return (pixels - mean) / std


def run_of_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python of a card where it lies, and return its names."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


# the formats


def probabilities(folder: Path, pixels: Tensor) -> Tensor:
    """Return what an exported network gives for pixels in [0, 1], asked through its own library alone."""
    if (folder / "model.onnx").exists():
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"pixels": pixels.numpy()})
        return torch.from_numpy(scores).softmax(1)
    with torch.no_grad():
        if (folder / "model.pt2").exists():
            scores = torch.export.load(folder / "model.pt2").module()(pixels)
        else:
            scores = graftpop.load(folder)(normalized(pixels))
    return torch.as_tensor(scores).softmax(1)


@pytest.mark.parametrize("format", FORMATS)
def test_the_best_peer_comes_back_as_it_was(run: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summary_of(run)
    folder = export(run, format)
    pixels, labels = digits_to_test()
    network = graftpop.load(export(run, "safetensors"))
    assert same_bits(
        network.state_dict(), {name: peer_weights(run, summary["best_peer"])[name] for name in network.state_dict()}
    )
    with torch.no_grad():
        expected = network(normalized(pixels)).softmax(1)
    found = probabilities(folder, pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    accuracy = float((found.argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(summary["test_accuracy"])
    for size in (1, 2, 65):  # whatever it was traced with
        torch.testing.assert_close(probabilities(folder, pixels[:size]), expected[:size], rtol=0, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert f"| test | {len(labels)} | {100 * accuracy:.2f} % |" in card
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert f"Peer {summary['best_peer']} of 3, the one with the highest validation accuracy." in card
    assert np.shape(run_of_card(folder, monkeypatch)["logits"]) == (1, 10)


@pytest.mark.parametrize("format", FORMATS)
def test_an_ensemble_gives_the_log_of_the_mean_probabilities(
    run: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(run, format, "ensemble")
    pixels, labels = digits_to_test()
    members = [graftpop.load(export(run, "safetensors", str(peer))) for peer in range(3)]
    with torch.no_grad():
        expected = torch.stack([member(normalized(pixels)).softmax(1) for member in members]).mean(0)
    found = probabilities(folder, pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float((found.argmax(1) == labels).double().mean()) == pytest.approx(
        summary_of(run)["ensemble_test_accuracy"]
    )
    scores = torch.as_tensor(run_of_card(folder, monkeypatch)["log_probabilities"])
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(1))
    assert "An ensemble of 3 peers" in (folder / "README.md").read_text()


def test_an_onnx_file_says_what_it_takes_and_where_it_is_from_not_on_which_machine(run: Path) -> None:
    file = export(run, "onnx") / "model.onnx"
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    (entered,), (left,) = model.graph.input, model.graph.output
    assert (entered.name, left.name) == ("pixels", "logits")
    sizes = [size.dim_param or size.dim_value for size in entered.type.tensor_type.shape.dim]
    assert sizes == ["batch", *SHAPE]
    said = {one.key: one.value for one in model.metadata_props}
    assert "RGB in [0, 1], not normalized" in said["input_and_output"]
    assert json.loads(said["mean"]) == list(few_digits().recipe.mean)
    assert json.loads(said["class_names"]) == list(few_digits().class_names)
    for format, name in (("onnx", "model.onnx"), ("torch-export", "model.pt2")):
        assert str(Path(graftpop.__file__).parent).encode() not in (export(run, format) / name).read_bytes()


@pytest.mark.parametrize(
    ("model", "fresh"),
    [
        ("torchvision:resnet18", lambda: torchvision.models.resnet18(num_classes=10)),
        ("timm:resnet18", lambda: timm.create_model("resnet18", num_classes=10)),
    ],
)
def test_a_librarys_own_network_takes_the_weights(model: str, fresh: Any, tmp_path: Path) -> None:
    untrained_run(tmp_path, small_settings(model={"name": model}, population={"num_peers": 1}))
    folder = export(tmp_path, "safetensors")
    network: nn.Module = fresh()
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    pixels, _ = digits_to_test()
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(normalized(pixels)).softmax(1), probabilities(folder, pixels))
    card = (folder / "README.md").read_text()
    assert f"The weights have the names of `{model}`" in card
    assert "The only peer." in card
    assert "The trial was at round 1 of 2; its status is interrupted." in card


def test_networks_with_fewer_filters_are_exported_as_small_as_they_are(tmp_path: Path) -> None:
    attenuation = {"factor": 0.0, "recoverable": False}
    summary = trained_run(tmp_path, small_settings(attenuation=attenuation, population={"num_peers": 2}))
    assert summary["removed_filters"] > 0
    pixels, _ = digits_to_test()
    for peer in ("best", "ensemble"):
        weights = export(tmp_path, "safetensors", peer)
        torch.testing.assert_close(
            probabilities(export(tmp_path, "onnx", peer), pixels), probabilities(weights, pixels), rtol=0, atol=1e-5
        )
        assert "filters were removed" in (weights / "README.md").read_text()
    num_parameters = sum(one.numel() for one in graftpop.load(export(tmp_path, "safetensors")).parameters())
    assert num_parameters == summary["parameters_left"]
    assert "attenuated filters differ from peer to peer" in refusal(
        tmp_path, "--format", "safetensors", "--peer", "soup"
    )


# which network


def test_a_peer_is_the_one_of_its_number(run: Path) -> None:
    for peer in range(3):
        network = graftpop.load(export(run, "safetensors", str(peer)))
        assert same_bits(network.state_dict(), {name: peer_weights(run, peer)[name] for name in network.state_dict()})


def test_a_soup_is_the_one_that_the_population_would_have_cooked(run: Path, tmp_path: Path) -> None:
    summary = trained_run(tmp_path, small_settings(population={"output": "uniform_soup"}))
    cooked = graftpop.load(export(tmp_path, "safetensors", "best")).state_dict()
    soup = graftpop.load(export(run, "safetensors", "soup")).state_dict()
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, cooked[name], rtol=1e-4, atol=1e-5)
    own = peer_weights(run, summary["best_peer"])
    assert max(float((own[name] - soup[name]).abs().max()) for name in soup if "weight" in name) > 1e-3
    cards = [
        (folder / "export" / name / "README.md").read_text()
        for folder, name in ((run, "soup-safetensors"), (tmp_path, "best-safetensors"))
    ]
    assert "the mean of the weights of 3 peers" in cards[0]
    assert "The uniform soup of 3 peers" in cards[1]
    assert same_bits(graftpop.load(export(tmp_path, "safetensors", "soup")).state_dict(), cooked)
    assert "needs the weights of every peer" in refusal(tmp_path, "--format", "safetensors", "--peer", "ensemble")


def test_a_checkpoint_that_is_damaged_or_gone_is_one_line(tmp_path: Path) -> None:
    untrained_run(tmp_path, small_settings(population={"num_peers": 2}))
    next(checkpoint(tmp_path).glob("peer-0*")).write_bytes(b"damaged")
    assert "peer-0.safetensors: cut short or grown" in refusal(tmp_path, "--format", "safetensors")
    (checkpoint(tmp_path) / "population.json").unlink()
    assert "00000, has no" in refusal(tmp_path, "--format", "safetensors")


# what is refused, and what is checked


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("--format", "onn"),
            "--format: unknown name 'onn'; choose from safetensors, onnx, torch-export; did you mean",
        ),
        (
            ("--format", "safetensors", "--peer", "3"),
            "--peer: the best trial has peers 0, 1, 2, got '3'; choose one of",
        ),
        (("--format", "safetensors", "--peer", "worst"), "--peer: the best trial has peers 0, 1, 2, got 'worst'"),
        (("--format", "safetensors", "--peer", "-1"), "--peer: the best trial has peers 0, 1, 2, got '-1'"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(run: Path, options: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(run, *options)


def test_a_folder_that_is_no_run_or_has_something_else_in_it_is_left_alone(run: Path, tmp_path: Path) -> None:
    assert "is no run" in refusal(tmp_path, "--format", "safetensors")
    (tmp_path / "README.md").write_text("mine")
    options = ("--format", "safetensors", "--out", str(tmp_path))
    assert "must be empty, absent or an earlier export, got one with README.md" in refusal(run, *options)
    assert (tmp_path / "README.md").read_text() == "mine"
    out = ("--format", "safetensors", "--out", str(tmp_path / "new"))
    for _ in range(2):  # an export may take the place of an earlier one
        assert exported(run, *out).exit_code == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_where_the_data_is_gone_the_card_says_that_accuracies_were_not_measured(run: Path, tmp_path: Path) -> None:
    gone = small_settings(
        data={"name": "parquet", "root": str(tmp_path / "gone"), "max_train_images": None, "image_size": 16}
    )
    untrained = small_settings()
    untrained_run(tmp_path / "run", untrained)
    facts = checkpoint(tmp_path / "run") / "population.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"settings": gone.model_dump()}))
    ended = exported(tmp_path / "run", "--format", "onnx")
    assert ended.exit_code == 0
    assert "accuracy   not measured: data.root: must be a folder" in ended.output
    card = (tmp_path / "run" / "export" / "best-onnx" / "README.md").read_text()
    assert "Not measured" in card
    assert "scaled to 16 pixels" in card
    assert str(tmp_path) not in card
    assert "data.root: must be a folder" in refusal(tmp_path / "run", "--format", "onnx", "--peer", "soup")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()


@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores + 2e-4,
        lambda scores: scores * 1.001,
        lambda scores: torch.full_like(scores, math.nan),
        lambda scores: torch.cat([scores[:-1], scores[-1:] * math.nan]),
        lambda scores: scores[:, :9],
    ],
)
def test_a_file_that_gives_something_else_is_an_error(change: Any) -> None:
    one = network()
    for measured in (
        measure("test", few_digits().test, one, lambda images: change(one(images))),
        measure_on_noise(SHAPE, one, lambda images: change(one(images))),
    ):
        with pytest.raises(ModelError, match=r"must agree with the network within 0\.0001, got a difference of"):
            check_alike(measured)


def test_a_file_that_is_as_near_and_calls_images_otherwise_is_an_error() -> None:
    one = network()
    measured = measure("test", few_digits().test, lambda images: 1e-6 * one(images), lambda images: -1e-6 * one(images))
    assert measured.difference < 1e-4
    with pytest.raises(ModelError, match=r"must have the network's accuracy, .* %, got .* % on \d+ images \(test\)"):
        check_alike(measured)
