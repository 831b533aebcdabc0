"""`graftpop export` and `graftpop.load` of networks of recognition and of user-defined tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from data_makers import write_market
from run_makers import TRIAL, run_of_readme, small_settings, trained_run
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import graftpop
from graftpop.__main__ import app
from graftpop.data import Images, load_splits
from graftpop.errors import CheckpointError
from graftpop.models.network_file import read_network
from graftpop.settings import Settings

ALL: Any = {"max_train_images": None}
FORMATS = ("safetensors", "onnx", "torch-export")


def export(run: Path, format: str, peer: str = "best") -> Path:
    result = exported(run, "--format", format, "--peer", peer)
    assert result.exit_code == 0, result.output
    return run / "export" / f"{peer}-{format}"


def exported(run: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["export", str(run), *options])


def function_of(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return an exported program as a function of its input, run by the format's library."""
    if (folder / "model.onnx").exists():
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (name,) = (given.name for given in session.get_inputs())
        return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])
    if (folder / "model.pt2").exists():
        return torch.export.load(folder / "model.pt2").module()
    return graftpop.load(folder)


# recognition


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    write_market(root)
    return root


def recognition(people: Path, **task: Any) -> Settings:
    return small_settings(
        data={
            "name": "market1501",
            "root": str(people),
            "image_size": 16,
            "val_fraction": 0.34,
            "max_train_images": None,
        },
        task={"name": "recognition", **task},
        training={"batch_size": 4},
        population={"num_peers": 2},
    )


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder.parent / "summary.json").write_text(json.dumps(trained_run(folder, recognition(people))))
    return folder


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run.parent / "summary.json").read_text())
    return summary


def whole(run: Path, peer: int) -> nn.Module:
    """Return a peer's network with its classifier."""
    return read_network(peer_file(run, peer))[0]


def peer_file(run: Path, peer: int) -> Path:
    (newest,) = (run / "tune" / "checkpoints" / TRIAL).iterdir()
    return newest / f"peer-{peer}.safetensors"


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the input of a network's output layer, by a hook."""
    found: list[Tensor] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with layers[-1].register_forward_pre_hook(lambda _, given: found.append(given[0])), torch.no_grad():
        network(images)
    return found[0]


def images_to_test(people: Path) -> tuple[Tensor, Tensor]:
    """Return the test images as RGB in [0, 1], and normalized."""
    splits = load_splits(recognition(people).data, seed=0, task=recognition(people).task)
    normalized = all_of(splits.test)[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (splits.recipe.mean, splits.recipe.std))
    return normalized * std + mean, normalized


def all_of(images: Images) -> tuple[Tensor, Tensor]:
    return next(images.evaluation_batches(images.num_images, torch.device("cpu")))


@pytest.mark.parametrize("format", FORMATS)
def test_network_of_recognition_returns_features(
    run: Path, people: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, (pixels, normalized) = summary_of(run), images_to_test(people)
    folder = export(run, format)
    expected = features_of(whole(run, summary["best_peer"]), normalized)
    with torch.no_grad():
        found = function_of(folder)(normalized if format == "safetensors" else pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    card = json.loads((folder / "config.json").read_text())
    assert (card["task"], card["distance"], card["num_classes"]) == ("recognition", "euclidean", 4)
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\npipeline_tag: image-feature-extraction\n")
    assert f"| test | 7 | {100 * summary['test_map']:.2f} % |" in readme
    assert f"Output `features`, float32 (batch, {expected.shape[1]})" in readme
    assert "Euclidean distance" in readme
    assert "scaled to 16 x 8 pixels" in readme
    assert np.shape(run_of_readme(folder, monkeypatch)["features"]) == (1, expected.shape[1])


def test_loaded_peer_returns_features_and_its_whole_network_logits(run: Path, people: Path) -> None:
    _, normalized = images_to_test(people)
    loaded, network = graftpop.load(peer_file(run, 0)), whole(run, 0)
    with torch.no_grad():
        assert torch.equal(loaded(normalized), features_of(network, normalized))
        assert network(normalized).shape == (7, 4)


@pytest.mark.parametrize(("distance", "format"), [("euclidean", "safetensors"), ("cosine", "torch-export")])
def test_ensemble_of_recognition_has_all_features_side_by_side(
    run: Path, people: Path, tmp_path: Path, distance: str, format: str
) -> None:
    summary = summary_of(run)
    if distance == "cosine":
        run = tmp_path
        summary = trained_run(run, recognition(people, distance=distance))
    pixels, normalized = images_to_test(people)
    each = [features_of(whole(run, peer), normalized) for peer in (0, 1)]
    expected = torch.cat([F.normalize(features) for features in each] if distance == "cosine" else each, dim=1)
    folder = export(run, format, "ensemble")
    with torch.no_grad():
        found = function_of(folder)(normalized if format == "safetensors" else pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    readme = (folder / "README.md").read_text()
    assert f"| test | 7 | {100 * summary['ensemble_test_map']:.2f} % |" in readme
    assert ("each of length 1" in readme) == (distance == "cosine")
    assert "side by side" in readme


def test_classifier_that_is_no_linear_layer_is_refused(run: Path) -> None:
    folder = export(run, "safetensors")
    card = json.loads((folder / "config.json").read_text())
    for name in (
        "no.layer",
        next(name for name, module in whole(run, 0).named_modules() if isinstance(module, nn.Conv2d)),
    ):
        (folder / "config.json").write_text(json.dumps({**card, "classifier": name}))
        with pytest.raises(CheckpointError, match=rf"classifier .*got '{name}'"):
            graftpop.load(folder)


# user-defined tasks


def regression(task: str = "Regression") -> Settings:
    return small_settings(
        task={"name": f"python:user_tasks.{task}", "metrics": {"rmse": "min", "worst": "min"}},
        data={"name": "python:user_tasks.sums"} | ALL,
        model={"name": "python:user_tasks.Net"},
        population={"num_peers": 2},
    )


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_network_of_a_user_defined_task_is_exported_as_it_is(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = trained_run(tmp_path, regression())
    folder = export(tmp_path, format)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = function_of(folder)(inputs), whole(tmp_path, summary["best_peer"])(inputs)
    torch.testing.assert_close(found, expected)
    readme = (folder / "README.md").read_text()
    assert f"| test | 40 | {summary['test_rmse']:.4g} |" in readme
    assert "Input `inputs`, float32 (batch, 4)" in readme
    assert "pipeline_tag" not in readme
    assert np.shape(run_of_readme(folder, monkeypatch)["outputs"]) == (1, 1)
    assert json.loads((folder / "config.json").read_text())["task"] == "python:user_tasks.Regression"


def test_ensemble_of_a_user_defined_task_is_refused(tmp_path: Path) -> None:
    trained_run(tmp_path, regression())
    result = exported(tmp_path, "--format", "safetensors", "--peer", "ensemble")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("error: --peer ensemble: ")
    assert "python:user_tasks.Regression" in result.stderr
    assert exported(tmp_path, "--format", "safetensors", "--peer", "soup").exit_code == 0


def test_task_that_calls_the_network_itself_has_no_score_of_the_file(tmp_path: Path) -> None:
    trained_run(tmp_path, regression("OfTheNegative"))
    result = exported(tmp_path, "--format", "safetensors")
    assert result.exit_code == 0
    assert "not measured: task.name: python:user_tasks.OfTheNegative" in result.output
    assert "Not measured" in (tmp_path / "export" / "best-safetensors" / "README.md").read_text()
