"""Tests of recognition as a task of a network, and of populations that learn it."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from data_makers import write_market
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from torch import Tensor, nn

from graftpop.errors import GraftpopError, ModelError
from graftpop.models import build
from graftpop.models.features import classifier_of, without_classifier_
from graftpop.ops.triplet import batch_hard_triplet_loss
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.settings import Settings, TaskSettings
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models
from graftpop.tasks.recognition import Recognition


def task(**changes: object) -> Recognition:
    return Recognition(TaskSettings.model_validate({"name": "recognition", **changes}))


def images(num: int = 4) -> Tensor:
    return torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class WithHead(nn.Module):
    """A classifier with an unused Linear layer after its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 5))
        self.unused = nn.Linear(6, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(pixels))
        return logits


def test_features_are_the_input_of_the_last_linear_layer() -> None:
    network = WithHead().eval()
    logits, features = task().forward(network, images())
    assert torch.equal(features, network.body(images()))
    assert torch.equal(logits, network(images()))
    assert torch.equal(task().infer(network, images()), features)


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "torchvision:resnet18"])
def test_networks_without_their_classifier_return_the_features(name: str) -> None:
    network = build(name, 5).eval()
    features = task().infer(network, images())
    name, _ = classifier_of(network, images())
    assert torch.equal(without_classifier_(copy.deepcopy(network), name)(images()), features)


def test_network_stays_in_training_and_keeps_its_statistics() -> None:
    network = build("resnet8", 5)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    with pytest.raises(RuntimeError):
        task().forward(network, images()[:, :2])
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_buffers())


def test_network_keeps_no_hook() -> None:
    network = WithHead()
    task().forward(network, images())
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network.modules())


def test_images_are_found_by_the_distance_of_the_settings() -> None:
    features = torch.tensor([[1.0, 0.0], [9.0, 0.1], [1.0, 0.5]])  # the second is the nearest in angle alone
    targets = torch.tensor([[0, 0, 1], [0, 1, 2], [1, 0, 2]])
    assert [task(distance=name).score(features, targets)["rank1"] for name in ("euclidean", "cosine")] == [0, 1]


def test_logits_decide_on_the_correct_ones_and_are_compared() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    outputs = (logits, torch.zeros(2, 4))
    assert int(task().num_correct(outputs, labels)) == 1
    assert task().logits(outputs) is logits


def test_network_without_a_linear_output_is_refused() -> None:
    convolution = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="recognition needs"):
        task().forward(convolution, images())


def test_loss_is_smoothed_cross_entropy_plus_triplets() -> None:
    outputs, labels = (torch.randn(4, 5), torch.randn(4, 6)), torch.tensor([0, 0, 3, 3])
    smoothed = F.cross_entropy(outputs[0], labels, label_smoothing=0.1)
    assert torch.equal(task(label_smoothing=0.1).loss(outputs, labels), smoothed)
    triplets = batch_hard_triplet_loss(outputs[1], labels, 0.5)
    both = task(label_smoothing=0.1, triplet_weight=2.0, triplet_margin=0.5).loss(outputs, labels)
    assert float(both) == pytest.approx(float(smoothed + 2 * triplets))


def test_squared_distances_of_an_ensemble_add_up() -> None:
    first, second = torch.randn(5, 3), torch.randn(5, 4)
    combined = task().combine([first, second])
    expected = torch.cdist(first, first).square() + torch.cdist(second, second).square()
    assert torch.allclose(torch.cdist(combined, combined).square(), expected, atol=1e-4)


def test_cosines_of_an_ensemble_are_averaged() -> None:
    first, second = torch.randn(5, 3), 9 * torch.randn(5, 4)
    cosines = [F.normalize(each) @ F.normalize(each).T for each in (first, second)]
    combined = F.normalize(task(distance="cosine").combine([first, second]))
    assert torch.allclose(combined @ combined.T, torch.stack(cosines).mean(0), atol=1e-5)


# populations


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write six training identities and two others, and return the section of the data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_market(tmp_path / "market")
    return {"name": "market1501", "root": str(tmp_path / "market"), "image_size": 16, "val_fraction": 0.34}


TRIPLETS = {"name": "recognition", "label_smoothing": 0.1, "triplet_weight": 1.0, "images_per_identity": 2}


def grafted(people: dict[str, Any], **sections: Any) -> Settings:
    """Return settings of two peers that graft for three rounds, with triplets of four training identities."""
    small = {"training": {"epochs": 3, "batch_size": 8}, "population": {"num_peers": 2}, "graft": {}}
    return make_settings(small, {"data": {**people, "max_train_images": None}, "task": TRIPLETS}, sections)


def population(settings: Settings) -> Population:
    return Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)


def test_grafted_population_with_triplets_resumes_to_the_bit(people: dict[str, Any]) -> None:
    settings = grafted(people)
    first = population(settings)
    first.step()
    second = first.step()
    assert second.grafts
    saved = dict(first.save())
    last = first.step()
    resumed = population(settings)
    resumed.load(saved, 2, {})
    again = resumed.step()
    states = [{peer: tensors_from_bytes(state) for peer, state in one.save()} for one in (first, resumed)]
    assert all(same_bits(states[0][peer], states[1][peer]) for peer in (0, 1))
    assert resumed.finish(again) == (outcome := first.finish(last))
    names = [metric.name for metric in settings.metrics]
    assert names == ["map", "rank1", "rank5", "rank10"]
    assert all(0 <= outcome[f"{split}_{name}"] <= 1 for split in ("val", "test") for name in names)
    assert [row["val_loss"] for row in last.peers] == [None, None]


def test_triplets_change_the_training(people: dict[str, Any]) -> None:
    losses = [
        population(grafted(people, task=task)).step().peers[0]["train_loss"]
        for task in (TRIPLETS, {"triplet_weight": 0.0})
    ]
    assert all(map(math.isfinite, losses))
    assert losses[0] > losses[1]


@pytest.mark.parametrize(
    ("batch_size", "per_identity", "got"),
    [("6", 4, 6), ("4", 4, 4), ("{choice: [8, 16]}", 2, 16), ("8", "{choice: [1, 2]}", 1)],
)
def test_batch_that_cannot_hold_the_identities_is_refused(
    people: dict[str, Any], batch_size: str, per_identity: int | str, got: int
) -> None:
    text = f"""
    task: {{name: recognition, triplet_weight: 1.0, images_per_identity: {per_identity}}}
    model: {{name: "python:network_makers.TwoSites"}}
    training: {{batch_size: {batch_size}}}
    """
    with pytest.raises(GraftpopError, match=rf"(training\.batch_size|task\.images_per_identity): .*got {got}\b"):
        check_data_and_models(parse_space({**yaml.safe_load(text), "data": people}))


def test_batch_with_all_identities_is_accepted(people: dict[str, Any]) -> None:
    tree = {"data": people, "task": TRIPLETS, "model": {"name": "python:network_makers.TwoSites"}}
    check_data_and_models(parse_space({**tree, "training": {"batch_size": 8}}))
    check_data_and_models(parse_space({**tree, "training": {"batch_size": 128}, "task": "recognition"}))
