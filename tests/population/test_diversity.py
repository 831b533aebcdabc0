"""Tests of `population.diversity`: each peer trains by its own values."""

from typing import Any

import pytest
import torch
import yaml

from graftpop.errors import SpaceError
from graftpop.peer.peer import Peer
from graftpop.settings import Settings
from graftpop.space import parse_space

DIVERSITY = {
    "training.lr": {"range": [0.05, 0.15]},
    "training.optimizer.name": ["sgd", "adamw"],
    "augmentation.erasing": [0, 0.5],
    "task.label_smoothing": [0, 0.1, 0.2],
}


def settings(diversity: Any = "none", **sections: Any) -> Settings:
    tree: dict[str, Any] = {
        "data": {"name": "digits", "max_train_images": 100},
        "model": {"name": "python:network_makers.TwoSites"},
        "training": {"epochs": 2},
        "population": {"num_peers": 3, "diversity": diversity},
    }
    return parse_space({**tree, **sections}).resolve()


def test_lists_are_repeated_and_ranges_are_divided_evenly() -> None:
    peers = [settings(DIVERSITY).of_peer(peer) for peer in range(3)]
    assert [one.training.lr for one in peers] == pytest.approx([0.05, 0.1, 0.15])
    assert [one.training.optimizer.name for one in peers] == ["sgd", "adamw", "sgd"]
    assert [one.augmentation.erasing for one in peers] == [0, 0.5, 0]
    assert [one.task.label_smoothing for one in peers] == [0, 0.1, 0.2]
    assert settings().of_peer(1) == settings()


def test_only_peer_has_the_first_value_of_a_range() -> None:
    alone = settings({"training.lr": {"range": [0.05, 0.15]}}, population={"num_peers": 1, "diversity": DIVERSITY})
    assert alone.of_peer(0).training.lr == 0.05


def test_peer_trains_by_its_own_values() -> None:
    diverse = settings(DIVERSITY)
    rows = []
    for index in range(3):
        peer, alone = Peer(diverse, index), Peer(diverse.of_peer(index), index)
        rows.append(peer.train(1))
        alone.train(1)
        assert torch.equal(torch.tensor(peer.publish().weights), torch.tensor(alone.publish().weights))
    assert [row["lr"] for row in rows if isinstance(row, dict)] == pytest.approx([0.05, 0.1, 0.15])


def test_space_with_diversity_is_written_and_read() -> None:
    space = parse_space({"population": {"num_peers": 3, "diversity": DIVERSITY}})
    assert parse_space(yaml.safe_load(space.to_yaml())) == space


@pytest.mark.parametrize(
    ("diversity", "message"),
    [
        ({"training.lr": [0.1, -1]}, r"training\.lr of peer 1: .*greater than 0, got -1"),
        ({"training.lrr": [1]}, r"'training\.lrr'.*did you mean 'training\.lr'"),
        ({"training.batch_size": [16, 32]}, r"'training\.batch_size' must be a key"),
        ({"graft.A": [0.1]}, r"'graft\.A' must be a key"),
        ({"training.schedule": ["cosin"]}, "did you mean 'cosine'"),
        ({"training.optimizer.name.first": ["sgd"]}, r"'training\.optimizer\.name\.first' must be a key"),
        ({"training.decay_epochs": {"range": [3, 5]}}, r"training\.decay_epochs of peer 0"),
        ({"training.lr": {"uniform": [0.1, 0.2]}}, r"diversity\.training\.lr: cannot be searched inside .*uniform"),
        ({"choice": ["none", {"training.lr": {"uniform": [0.1, 0.2]}}]}, r"training\.lr: cannot be searched inside"),
        ({"training.warmup_epochs": [0, 5]}, r"training\.warmup_epochs: .*\(2\), got 5"),
        ({"training.lr": []}, "got"),
        ({}, "got"),
    ],
)
def test_unsuitable_values_are_refused(diversity: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        settings(diversity)


@pytest.mark.parametrize(
    ("diverse", "training"),
    [
        ({"training.lr": [0.1, 0.2]}, {"lr": {"uniform": [0.01, 0.1]}}),
        (
            {"training.optimizer": [{"name": "sgd"}]},
            {"optimizer": {"name": "sgd", "nesterov": {"choice": [True, False]}}},
        ),
    ],
)
def test_searched_key_that_diversity_sets_is_refused(diverse: dict[str, Any], training: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match=r"population\.diversity: sets training\.\w+ at every peer"):
        settings(diverse, training={"epochs": 2, **training})


def test_teacher_trains_by_the_settings_of_the_population() -> None:
    teachers = {"teachers": [{"model": "python:network_makers.TwoSites", "epochs": 1}]}
    plain = Peer(settings(distillation=teachers), 0).train_teachers(0)
    diverse = {"task.label_smoothing": [0.3], "training.weight_decay": [0.1]}
    assert Peer(settings(diverse, distillation=teachers), 0).train_teachers(0) == plain


def test_peers_that_exchange_logits_need_the_same_images() -> None:
    with pytest.raises(SpaceError, match=r"augmentation\.erasing .*mutual\.exchange: logits"):
        settings({"augmentation.erasing": [0, 0.5]}, mutual={})


def test_peers_that_train_teachers_need_the_same_images() -> None:
    teachers = {"teachers": [{"model": "resnet8", "epochs": 1}]}
    with pytest.raises(SpaceError, match=r"augmentation\.erasing .*teachers"):
        settings({"augmentation.erasing": [0, 0.5]}, distillation=teachers)


def test_whole_optimizers_and_their_arguments_may_differ() -> None:
    whole = settings({"training.optimizer": [{"name": "sgd"}, {"name": "adamw", "betas": [0.8, 0.9]}]})
    assert [whole.of_peer(peer).training.optimizer.name for peer in range(3)] == ["sgd", "adamw", "sgd"]
    one = settings({"training.optimizer.nesterov": [False, True]}, training={"optimizer": {"name": "sgd"}})
    assert one.of_peer(1).training.optimizer != one.of_peer(0).training.optimizer
