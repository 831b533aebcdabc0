"""Peers that start from a checkpoint, with arguments of their network: the first round, resumption and export."""

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from network_makers import TwoSites, WithDropout, few_digits, same_bits
from run_makers import small_settings, trained_run
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import graftpop
from graftpop.__main__ import app
from graftpop.errors import CheckpointError
from graftpop.models.network_file import split_peer_file
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.run.run_folder import RunFolder
from graftpop.settings import Settings
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models

MEAN, STD = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)
NAME = "python:network_makers.WithDropout"
HEAD = ("classifier.weight", "classifier.bias")


def best_of(folder: Path, num_classes: int, mean: tuple[float, ...] = MEAN) -> dict[str, Tensor]:
    """Write the folder best/ of a run, and return its weights."""
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = TwoSites(num_classes).state_dict()
    card = {"model": NAME, "num_classes": num_classes, "image_shape": [3, 8, 8], "mean": mean, "std": STD}
    (folder / "config.json").write_text(json.dumps(card))
    save_file(weights, folder / "model.safetensors")
    return weights


def tuned(folder: Path, **sections: Any) -> Settings:
    """Return settings of three peers with dropout that graft and start from a folder best/."""
    model = {"name": NAME, "checkpoint": str(folder / "best"), "args": {"rate": 0.2}}
    return small_settings(model=model, training={"epochs": 3}, **sections)


def networks(peers: list[Peer]) -> list[dict[str, Tensor]]:
    states = [tensors_from_bytes(peer.save()) for peer in peers]
    return [
        {name.removeprefix("network/"): state[name] for name in state if name.startswith("network/")}
        for state in states
    ]


def test_every_peer_starts_from_the_weights_with_an_output_layer_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = best_of(tmp_path / "best", 4)
    settings = tuned(tmp_path)
    with caplog.at_level(logging.WARNING, "graftpop"):
        started = networks([Peer(settings, index) for index in range(3)])
    untuned = settings.model_copy(update={"model": settings.model.model_copy(update={"checkpoint": None})})
    initial = networks([Peer(untuned, index) for index in range(3)])
    for own, from_seed in zip(started, initial, strict=True):
        for name, tensor in own.items():
            assert torch.equal(tensor, (from_seed if name in HEAD else weights)[name]), name
    assert not torch.equal(started[0]["classifier.weight"], started[1]["classifier.weight"])
    assert any("model.checkpoint" in message and "4 classes" in message for message in caplog.messages)


def test_first_predictions_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    weights = best_of(tmp_path / "best", 10)
    peer = Peer(tuned(tmp_path), 0)
    network = WithDropout(10).eval()
    network.load_state_dict(weights)
    splits = few_digits()
    images, _ = next(splits.val.evaluation_batches(splits.val.num_images, torch.device("cpu")))
    mean, std, data_mean, data_std = (
        torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD, splits.recipe.mean, splits.recipe.std)
    )
    with torch.no_grad():
        expected = network((images * data_std + data_mean - mean) / std).softmax(1)
    torch.testing.assert_close(torch.from_numpy(peer.predict("val")[0]), expected, rtol=1e-4, atol=1e-5)


def test_card_of_a_peer_has_its_arguments_and_the_normalization_of_the_weights(tmp_path: Path) -> None:
    best_of(tmp_path / "best", 4)
    _, card = split_peer_file(Peer(tuned(tmp_path), 0).save())
    assert (card.args, card.mean, card.std, card.num_classes) == ({"rate": 0.2}, MEAN, STD, 10)
    assert "args" not in Peer(small_settings(), 0).model_card().to_dict()


def test_dropout_by_an_argument_changes_the_training() -> None:
    rates = (0.0, 0.5)
    peers = [Peer(small_settings(model={"name": NAME, "args": {"rate": rate}}), 0) for rate in rates]
    before = networks(peers)
    assert same_bits(before[0], before[1])
    for peer in peers:
        peer.train(1)
    after = networks(peers)
    assert not same_bits(after[0], after[1])


def test_population_with_checkpoint_and_arguments_resumes_to_the_bit(tmp_path: Path) -> None:
    best_of(tmp_path / "best", 4)
    settings = tuned(tmp_path)
    first = Population(LocalGroup(partial(Peer, settings), 3), settings)
    first.step()
    saved = dict(first.save())
    first.step()

    # other weights of the same normalization: only the saved state counts
    save_file(
        {name: torch.zeros_like(tensor) for name, tensor in best_of(tmp_path / "best", 4).items()},
        tmp_path / "best" / "model.safetensors",
    )
    resumed = Population(LocalGroup(partial(Peer, settings), 3), settings)
    resumed.load(saved, 1, {})
    resumed.step()
    assert dict(resumed.save()) == dict(first.save())


def test_resumption_refuses_another_normalization_and_a_missing_checkpoint(tmp_path: Path) -> None:
    best_of(tmp_path / "best", 4)
    settings = tuned(tmp_path)
    saved = Peer(settings, 0).save()
    best_of(tmp_path / "best", 4, mean=(0.5, 0.5, 0.5))
    with pytest.raises(CheckpointError, match=r"checkpoint of peer 0: .*0\.5.*0\.1, 0\.2, 0\.3.*; .*model\.checkpoint"):
        Peer(settings, 0).load(saved)
    shutil.rmtree(tmp_path / "best")
    with pytest.raises(CheckpointError, match=r"^model\.checkpoint: .*best"):
        Peer(settings, 0)


def test_exports_of_tuned_peers_need_no_checkpoint(tmp_path: Path) -> None:
    best_of(tmp_path / "best", 4)
    run = tmp_path / "run"
    trained_run(run, tuned(tmp_path))
    shutil.rmtree(tmp_path / "best")
    for peer in ("best", "soup", "ensemble"):
        done = CliRunner().invoke(app, ["export", str(run), "--format", "safetensors", "--peer", peer])
        assert done.exit_code == 0, done.output
        folder = RunFolder(str(run)).location + f"/export/{peer}-safetensors"
        config = json.loads(Path(folder, "config.json").read_text())
        assert (config["args"], config["mean"], config["std"]) == ({"rate": 0.2}, [*MEAN], [*STD])
        network = graftpop.load(folder)
        assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {0.2}
        assert "| test |" in Path(folder, "README.md").read_text()


def preflight(**model: Any) -> list[str]:
    space = parse_space({"data": {"name": "digits", "max_train_images": 200}, "model": model})
    return check_data_and_models(space).notes


def test_preflight_notes_a_new_output_layer_and_refuses_another_network(tmp_path: Path) -> None:
    best_of(tmp_path / "best", 4)
    (note,) = preflight(name=NAME, checkpoint=str(tmp_path / "best"))
    assert note.startswith(f"model.checkpoint: {tmp_path / 'best'}: ")
    assert "classifier.weight" in note
    best_of(tmp_path / "best", 10)
    assert preflight(name=NAME, checkpoint=str(tmp_path / "best")) == []
    with pytest.raises(CheckpointError, match=r"^model\.checkpoint: .*'resnet8'"):
        preflight(name={"choice": [NAME, "resnet8"]}, checkpoint=str(tmp_path / "best"))
