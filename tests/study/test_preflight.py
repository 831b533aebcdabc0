"""Preflight checks of names, data, networks and teachers of every possible trial."""

from pathlib import Path

import pytest
import yaml
from data_makers import random_pixels, write_class_folders

from graftpop.errors import GraftpopError, SpaceError
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space, parse_space
from graftpop.study.preflight import check_data_and_models, check_names
from graftpop.study.trackers import check_destinations

TWO = "variants: {plain: {}, other: %s}\n"


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text))


def preflight(text: str) -> None:
    space = space_of(text)
    check_names(space)
    check_data_and_models(space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO % "{data: {name: digitz}}", "data.name: unknown name 'digitz'"),
        ("data: {name: {grid: [digits, digitz]}}\nseeds: [0]", "data.name: unknown name 'digitz'"),
        (TWO % "{model: {name: resnet9}}", "model.name: unknown name 'resnet9'"),
        (
            TWO % "{distillation: {teachers: [{model: resnet8, epochs: 1}, {model: resnet9, epochs: 1}]}}",
            "distillation.teachers[1].model: unknown name 'resnet9'",
        ),
    ],
)
def test_unknown_name_in_any_variant_is_refused(text: str, message: str) -> None:
    with pytest.raises(GraftpopError) as caught:
        check_names(space_of(text))
    assert str(caught.value).startswith(message)


def test_every_searched_argument_is_built_and_other_shapes_are_run() -> None:
    model = "data: {name: digits}\nmodel: {name: 'python:network_makers.%s', args: %s}"
    preflight(model % ("WithDropout", "{rate: {uniform: [0.0, 1.0]}}"))
    with pytest.raises(GraftpopError, match=r"^model\.name: .*rate=2\.0"):
        preflight(model % ("WithDropout", "{rate: {choice: [0.0, 0.5, 2.0]}}"))
    with pytest.raises(GraftpopError, match=r"^model\.name: .*WithWidth.* cannot take images"):
        preflight(model % ("WithWidth", "{share: {choice: [1.0, 0.5]}}"))


def test_frozen_gates_are_found_also_in_a_later_schedule() -> None:
    text = "data: {name: digits}\nmodel: {name: 'python:network_makers.FrozenNorms'}\ntraining: {epochs: 60}\n"
    with pytest.raises(GraftpopError, match=r"^pruning\.schedule: gated .*'bn1\.weight'"):
        preflight(text + "pruning: {schedule: {choice: [soft, gated]}, coupled: apart, remove: false}")


def test_notes_on_the_data_are_returned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("train", "test"):
        write_class_folders(tmp_path / part, {"a": random_pixels(4), "b": random_pixels(4)})
    (tmp_path / "train" / "a" / "x.heic").write_text("x")
    data = f"data: {{name: folder, root: {tmp_path}}}\nmodel: {{name: resnet8}}\n"
    (note,) = check_data_and_models(space_of(data + TWO % "{data: {val_fraction: 0.2}}")).notes
    assert "1 of .heic" in note


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (
            "seeds: [0]\ndata: {name: digits, max_train_images: {grid: [100, 10000]}}",
            "data.max_train_images: ",
            "got 10000",
        ),
        ("data: {name: digits}\n" + TWO % "{model: {name: vgg16}}", "model.name: 'vgg16' ", "(3, 8, 8)"),
        (
            "data: {name: digits}\n" + TWO % "{distillation: {teachers: [{model: 'torchvision:alexnet', epochs: 1}]}}",
            "distillation.teachers[0].model: ",
            "(3, 8, 8)",
        ),
        (
            "data: {name: digits}\n" + TWO % "{distillation: {teachers: [{checkpoint: /absent}]}}",
            "distillation.teachers[0].checkpoint: ",
            "'/absent'",
        ),
        (
            "data: {name: digits}\nmodel: {name: 'torchvision:mobilenet_v2'}\n"
            + TWO % "{graft: {compat: released_code}}",
            "graft.compat: ",
            "'conv'",
        ),
    ],
)
def test_bad_data_or_network_in_any_variant_is_refused(text: str, key: str, reason: str) -> None:
    with pytest.raises(GraftpopError) as caught:
        preflight(text)
    assert str(caught.value).startswith(key)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "model: {name: {choice: ['python:site_networks.TorchAttention', resnet8]}}\n"
        "training: {optimizer: {name: {choice: [sgd, muon]}}}",
        "model: {name: 'python:site_networks.TorchAttention'}\ntraining: {optimizer: {name: muon}}\n"
        "distillation: {teachers: [{model: resnet8, epochs: 1}]}",
        "model: {name: resnet8}\npopulation: {diversity: {training.optimizer.name: [sgd, muon]}}",
    ],
)
def test_muon_is_refused_for_networks_and_teachers_without_hidden_matrices(text: str) -> None:
    with pytest.raises(GraftpopError, match=r"^training\.optimizer\.name: muon .*resnet8"):
        preflight(f"data: {{name: digits}}\n{text}")


def test_compat_is_accepted_for_a_supported_network() -> None:
    compat = TWO % "{graft: {compat: released_code}}"
    preflight("data: {name: digits}\nmodel: {name: 'torchvision:resnet18'}\n" + compat)
    with pytest.raises(GraftpopError, match=r"^graft\.compat: "):
        preflight("data: {name: digits}\nmodel: {name: 'torchvision:mobilenet_v2'}\n" + compat)


def test_every_combination_of_data_and_network_is_checked() -> None:
    text = (
        "data: {name: digits, max_train_images: {grid: [200, 400]}}\nmodel: {name: {grid: [resnet8, resnet20]}}\n"
        "seeds: [0, 1]\n" + TWO % "{distillation: {teachers: [{model: resnet8, epochs: 1}]}, graft: {}}"
    )
    preflight(text)
    combinations = {
        (settings.data.max_train_images, settings.model.name, settings.graft is None)
        for settings in space_of(text).settings_of("data", "model")
    }
    assert combinations == {
        (limit, model, plain) for limit in (200, 400) for model in ("resnet8", "resnet20") for plain in (True, False)
    }


def test_destination_of_a_tracker_is_checked_without_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    space, on_no_disk = space_of("tune: {trackers: [mlflow]}"), RunFolder("s3://bucket/run?region=us-east-1")
    with pytest.raises(SpaceError, match=r"^tune\.trackers: mlflow .*s3://bucket/run.*; .*MLFLOW_TRACKING_URI"):
        check_destinations(space, on_no_disk)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    check_destinations(space, on_no_disk)
