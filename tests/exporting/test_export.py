"""`graftpop export`: written networks equal the selected ones, and the code in their READMEs loads them."""

import json
import math
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
from run_makers import TRIAL, run_of_readme, small_settings, trained_run, untrained_run
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import graftpop
from graftpop.__main__ import app
from graftpop.errors import ModelError
from graftpop.exporting.checks import check_agreement, measure, measure_on_noise
from graftpop.metrics import ACCURACY
from graftpop.models.weight_file import read_any_weights
from graftpop.tasks.classification import Classification

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
    """Export to the default folder, unless that is done, and return the folder."""
    folder = run / "export" / f"{peer}-{format}"
    if not folder.exists():
        result = exported(run, "--format", format, "--peer", peer)
        assert result.exit_code == 0, result.output
    return folder


def export_refusal(run: Path, *options: str) -> str:
    """Return the error line of a refused export; assert that it is one line."""
    result = exported(run, *options)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ")


def checkpoint(run: Path) -> Path:
    (newest,) = (run / "tune" / "checkpoints" / TRIAL).iterdir()
    return newest


def peer_weights(run: Path, peer: int) -> dict[str, Tensor]:
    return read_any_weights(checkpoint(run) / f"peer-{peer}.safetensors")


def digits_to_test() -> tuple[Tensor, Tensor]:
    """Return the test digits as RGB in [0, 1] (N, 3, 8, 8), and their labels (N,)."""
    test = few_digits().test
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (few_digits().recipe.mean, few_digits().recipe.std))
    images, labels = next(test.evaluation_batches(test.num_images, torch.device("cpu")))
    return images * std + mean, labels


def normalized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (few_digits().recipe.mean, few_digits().recipe.std))
    return (pixels - mean) / std


# formats


def probabilities(folder: Path, pixels: Tensor) -> Tensor:
    """Return an exported network's class probabilities for pixels in [0, 1], computed by the format's library."""
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
def test_exported_best_peer_equals_the_trained_one(run: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summary_of(run)
    folder = export(run, format)
    pixels, labels = digits_to_test()
    network = graftpop.load(export(run, "safetensors"))
    assert same_bits(
        network.state_dict(), {name: peer_weights(run, summary["best_peer"])[name] for name in network.state_dict()}
    )
    with torch.no_grad():
        expected = network(normalized(pixels)).softmax(1)
    actual = probabilities(folder, pixels)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    accuracy = float((actual.argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(summary["test_accuracy"])
    for size in (1, 2, 65):  # the trace has 2 images
        torch.testing.assert_close(probabilities(folder, pixels[:size]), expected[:size], rtol=0, atol=1e-5)
    readme = (folder / "README.md").read_text()
    assert f"| test | {len(labels)} | {100 * accuracy:.2f} % |" in readme
    assert readme.startswith("---\npipeline_tag: image-classification\n")
    assert f"Peer {summary['best_peer']} of 3, " in readme
    assert "best validation score" in readme
    assert np.shape(run_of_readme(folder, monkeypatch)["logits"]) == (1, 10)


@pytest.mark.parametrize("format", FORMATS)
def test_exported_ensemble_returns_the_log_of_the_mean_probabilities(
    run: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(run, format, "ensemble")
    pixels, labels = digits_to_test()
    members = [graftpop.load(export(run, "safetensors", str(peer))) for peer in range(3)]
    with torch.no_grad():
        expected = torch.stack([member(normalized(pixels)).softmax(1) for member in members]).mean(0)
    actual = probabilities(folder, pixels)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert float((actual.argmax(1) == labels).double().mean()) == pytest.approx(
        summary_of(run)["ensemble_test_accuracy"]
    )
    scores = torch.as_tensor(run_of_readme(folder, monkeypatch)["log_probabilities"])
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(1))
    assert "ensemble of 3 peers" in (folder / "README.md").read_text()


def test_onnx_metadata_describe_input_without_local_paths(run: Path) -> None:
    file = export(run, "onnx") / "model.onnx"
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    (input_,), (output,) = model.graph.input, model.graph.output
    assert (input_.name, output.name) == ("pixels", "logits")
    sizes = [size.dim_param or size.dim_value for size in input_.type.tensor_type.shape.dim]
    assert sizes == ["batch", *SHAPE]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert "RGB in [0, 1], not normalized" in metadata["input_and_output"]
    assert json.loads(metadata["mean"]) == list(few_digits().recipe.mean)
    assert json.loads(metadata["class_names"]) == list(few_digits().class_names)
    for format, name in (("onnx", "model.onnx"), ("torch-export", "model.pt2")):
        assert str(Path(graftpop.__file__).parent).encode() not in (export(run, format) / name).read_bytes()


@pytest.mark.parametrize(
    ("model", "fresh"),
    [
        ("torchvision:resnet18", lambda: torchvision.models.resnet18(num_classes=10)),
        ("timm:resnet18", lambda: timm.create_model("resnet18", num_classes=10)),
    ],
)
def test_librarys_network_loads_the_exported_weights(model: str, fresh: Any, tmp_path: Path) -> None:
    untrained_run(tmp_path, small_settings(model={"name": model}, population={"num_peers": 1}))
    folder = export(tmp_path, "safetensors")
    network: nn.Module = fresh()
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    pixels, _ = digits_to_test()
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(normalized(pixels)).softmax(1), probabilities(folder, pixels))
    readme = (folder / "README.md").read_text()
    assert f"names of `{model}`" in readme
    assert "only peer" in readme
    assert "round 1 of 2" in readme
    assert "interrupted" in readme


def test_reduced_network_is_exported_in_its_size(tmp_path: Path) -> None:
    pruning = {"preset": "hard"}
    summary = trained_run(tmp_path, small_settings(pruning=pruning, population={"num_peers": 2}))
    assert summary["removed_filters"] > 0
    pixels, _ = digits_to_test()
    for peer in ("best", "ensemble"):
        weights = export(tmp_path, "safetensors", peer)
        torch.testing.assert_close(
            probabilities(export(tmp_path, "onnx", peer), pixels), probabilities(weights, pixels), rtol=0, atol=1e-5
        )
        assert "filters were removed" in (weights / "README.md").read_text()
    num_parameters = sum(tensor.numel() for tensor in graftpop.load(export(tmp_path, "safetensors")).parameters())
    assert num_parameters == summary["parameters_left"]
    message = export_refusal(tmp_path, "--format", "safetensors", "--peer", "soup")
    assert message.startswith("--peer soup: ")
    assert "pruned filters" in message


# selection


def test_peer_is_selected_by_its_number(run: Path) -> None:
    for peer in range(3):
        network = graftpop.load(export(run, "safetensors", str(peer)))
        assert same_bits(network.state_dict(), {name: peer_weights(run, peer)[name] for name in network.state_dict()})


def test_exported_soup_of_aligned_peers_is_the_populations(tmp_path: Path) -> None:
    for output in ("best_peer", "uniform_soup"):
        summary = trained_run(tmp_path / output, small_settings(align={}, population={"output": output}))
        assert summary["best_peer"] != 2  # the peer whose file is read last
    soup = graftpop.load(export(tmp_path / "best_peer", "safetensors", "soup")).state_dict()
    expected = graftpop.load(export(tmp_path / "uniform_soup", "safetensors", "best")).state_dict()
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_exported_soup_equals_the_populations_uniform_soup(run: Path, tmp_path: Path) -> None:
    summary = trained_run(tmp_path, small_settings(population={"output": "uniform_soup"}))
    population_soup = graftpop.load(export(tmp_path, "safetensors", "best")).state_dict()
    soup = graftpop.load(export(run, "safetensors", "soup")).state_dict()
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, population_soup[name], rtol=1e-4, atol=1e-5)
    own = peer_weights(run, summary["best_peer"])
    assert max(float((own[name] - soup[name]).abs().max()) for name in soup if "weight" in name) > 1e-3
    readmes = [
        (folder / "export" / name / "README.md").read_text()
        for folder, name in ((run, "soup-safetensors"), (tmp_path, "best-safetensors"))
    ]
    assert "weights of 3 peers, with BatchNorm statistics" in readmes[0]
    assert "uniform soup of 3 peers" in readmes[1]
    assert same_bits(graftpop.load(export(tmp_path, "safetensors", "soup")).state_dict(), population_soup)
    message = export_refusal(tmp_path, "--format", "safetensors", "--peer", "ensemble")
    assert message.startswith("--peer ensemble: ")
    assert "got the uniform_soup" in message


def test_damaged_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    untrained_run(tmp_path, small_settings(population={"num_peers": 2}))
    next(checkpoint(tmp_path).glob("peer-0*")).write_bytes(b"damaged")
    assert "peer-0.safetensors: " in export_refusal(tmp_path, "--format", "safetensors")
    (checkpoint(tmp_path) / "population.json").unlink()
    message = export_refusal(tmp_path, "--format", "safetensors")
    assert message.startswith(f"{tmp_path}: ")
    assert TRIAL in message
    assert "--resume" in message


# refusals and checks


@pytest.mark.parametrize(
    ("options", "key", "parts"),
    [
        (("--format", "onn"), "--format", ("'onn'", "safetensors, onnx, torch-export", "did you mean 'onnx'")),
        (("--format", "safetensors", "--peer", "3"), "--peer", ("0, 1, 2", "got '3'", "best, soup or ensemble")),
        (("--format", "safetensors", "--peer", "worst"), "--peer", ("0, 1, 2", "got 'worst'")),
        (("--format", "safetensors", "--peer", "-1"), "--peer", ("0, 1, 2", "got '-1'")),
    ],
)
def test_unknown_format_or_peer_is_refused(
    run: Path, options: tuple[str, ...], key: str, parts: tuple[str, ...]
) -> None:
    message = export_refusal(run, *options)
    assert message.startswith(f"{key}: ")
    assert [part for part in parts if part not in message] == []


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    message = export_refusal(tmp_path, "--format", "safetensors")
    assert message.startswith(f"{tmp_path}: ")
    assert "space.yaml" in message


def test_out_is_replaced_only_if_it_is_an_export(run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    message = export_refusal(run, "--format", "safetensors", "--out", str(tmp_path))
    assert message.startswith(f"--out {tmp_path}: ")
    assert "README.md" in message
    assert (tmp_path / "README.md").read_text() == "mine"
    out = ("--format", "safetensors", "--out", str(tmp_path / "new"))
    for _ in range(2):
        assert exported(run, *out).exit_code == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_missing_data_leaves_accuracy_unmeasured_and_refuses_a_soup(tmp_path: Path) -> None:
    settings = small_settings(
        data={"name": "parquet", "root": str(tmp_path / "missing"), "max_train_images": None, "image_size": 16}
    )
    untrained_run(tmp_path / "run", small_settings())
    file = checkpoint(tmp_path / "run") / "population.json"
    changed = {"settings": settings.model_dump(), "format_version": 2, "blake2b": ""}  # which has no hash
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    result = exported(tmp_path / "run", "--format", "onnx")
    assert result.exit_code == 0
    assert "not measured: data.root: " in result.output
    readme = (tmp_path / "run" / "export" / "best-onnx" / "README.md").read_text()
    assert "Not measured" in readme
    assert "noise" in readme
    assert "16 pixels" in readme
    assert str(tmp_path) not in readme
    assert export_refusal(tmp_path / "run", "--format", "onnx", "--peer", "soup").startswith("data.root: ")


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
def test_file_with_different_scores_is_refused(change: Any) -> None:
    original = network()
    for measurement, name in (
        (
            measure("test", few_digits().test, Classification(), original, lambda images: change(original(images))),
            "test",
        ),
        (measure_on_noise(SHAPE, original, lambda images: change(original(images))), "noise"),
    ):
        with pytest.raises(ModelError, match=rf"0\.0001, got a difference of .* on \d+ images \({name}\)"):
            check_agreement(measurement, ACCURACY)


def test_file_with_close_scores_and_different_accuracy_is_refused() -> None:
    original = network()
    measurement = measure(
        "test",
        few_digits().test,
        Classification(),
        lambda images: 1e-6 * original(images),
        lambda images: -1e-6 * original(images),
    )
    assert measurement.difference < 1e-4
    with pytest.raises(ModelError, match=r"accuracy, .* %, got .* % on \d+ images \(test\)"):
        check_agreement(measurement, ACCURACY)


@pytest.mark.parametrize("num_ties", [1, 2])
def test_one_prediction_may_differ_if_two_scores_are_equal(num_ties: int) -> None:
    """The order of the sums in a file decides such a tie, and one image of a small split is far above the tolerance."""

    class Few:
        num_images = 40

        def evaluation_batches(self, batch_size: int, device: torch.device) -> Any:
            return iter([(torch.arange(40), torch.zeros(40, dtype=torch.int64))])

    def scores(images: Tensor, of_second: float) -> Tensor:
        found = torch.tensor([1.0, 0.0]).repeat(len(images), 1)
        found[:num_ties] = torch.tensor([1.0, of_second])
        return found

    few: Any = Few()
    measurement = measure("val", few, Classification(), lambda one: scores(one, 1.0), lambda one: scores(one, 1.000001))
    assert measurement.network_score - measurement.score == pytest.approx(num_ties / 40)
    if num_ties == 1:
        check_agreement(measurement, ACCURACY)
    else:
        with pytest.raises(ModelError, match=r"accuracy, 100\.00 %, got 95\.00 % on 40 images \(val\)"):
            check_agreement(measurement, ACCURACY)
