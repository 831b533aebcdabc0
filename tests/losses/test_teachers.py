"""Teachers that are trained in the trial or loaded, and the peers' snapshots as classmates."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_makers import copied, few_digits, learner, same_bits, seeded_network, seeded_small_net, trained_looking
from safetensors.torch import save_file
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.exchange.grafting import Grafting
from graftpop.losses.distillation import distillation_term
from graftpop.losses.teachers import SnapshotTeachers, Teachers
from graftpop.models import build
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.training.learner import Learner
from graftpop.training.schedules import learning_rate
from graftpop.training.sites import find_sites
from graftpop.training.snapshot import Snapshot

CPU = torch.device("cpu")


def settings(*teachers: dict[str, Any], seed: int = 0) -> Settings:
    return Settings.model_validate(
        {
            "seed": seed,
            "data": {"name": "digits", "max_train_images": 200},
            "model": {"name": "resnet8"},
            "training": {"epochs": 3, "batch_size": 60, "lr": 0.05, "schedule": "cosine", "precision": "float32"},
            "distillation": {"teachers": list(teachers)},
        }
    )


def teachers(*chosen: dict[str, Any], seed: int = 0) -> Teachers:
    return Teachers(settings(*chosen, seed=seed), few_digits(), CPU)


@pytest.fixture
def best(tmp_path: Path) -> str:
    card = {
        "model": "resnet8",
        "num_classes": 10,
        "image_shape": (3, 8, 8),
        "mean": few_digits().recipe.mean,
        "std": few_digits().recipe.std,
    }
    (tmp_path / "config.json").write_text(json.dumps(card))
    save_file(trained_looking("resnet8", 7).state_dict(), tmp_path / "model.safetensors")
    return str(tmp_path)


def outputs(network: nn.Module) -> Tensor:
    pixels, _ = next(few_digits().val.evaluation_batches(20, CPU))
    with torch.no_grad():
        return network(pixels)


def is_fixed(network: nn.Module) -> bool:
    """Whether it is in evaluation mode and asks for no gradient."""
    return not any(module.training for module in network.modules()) and not any(
        parameter.requires_grad for parameter in network.parameters()
    )


# teachers


def test_a_teacher_is_trained_as_a_learner_of_its_own_name_would_be() -> None:
    chosen = settings({"model": "resnet8", "epochs": 2}, {"model": "resnet8_leaky", "epochs": 1}, seed=3)
    trained = Teachers(chosen, few_digits(), CPU)
    for index, (name, epochs) in enumerate([("resnet8", 2), ("resnet8_leaky", 1)]):
        with seeded(derive(3, "initialisation", f"teacher-{index}"), CPU):
            network = build(name, 10)
        alone = Learner(
            network,
            few_digits().train,
            chosen.training,
            lr=learning_rate(0.05, "cosine", epochs),
            seed=3,
            peer=f"teacher-{index}",
            device=CPU,
        )
        for _ in range(epochs):
            alone.train_epoch()
        state, num_images = trained.train(index)
        trained.take({index: state})
        assert num_images == 180 * epochs
        assert same_bits(trained.networks[-1].state_dict(), dict(network.state_dict()))


def test_whoever_trains_a_teacher_all_hand_on_the_same_and_it_stays_fixed() -> None:
    chosen = {"model": "resnet8", "epochs": 1}
    trainer, other = teachers(chosen), teachers(chosen)
    assert trainer.networks == other.networks == []
    before = torch.get_rng_state()
    state, _ = trainer.train(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert teachers(chosen).train(0)[0] == state
    assert teachers(chosen, seed=1).train(0)[0] != state
    for one in (trainer, other):
        one.take({0: state})
        assert len(one.networks) == 1
        assert is_fixed(one.networks[0])
    assert torch.equal(outputs(trainer.networks[0]), outputs(other.networks[0]))


def test_a_teacher_from_a_checkpoint_is_there_at_once_and_beside_the_trained(best: str) -> None:
    one = teachers({"model": "resnet8", "epochs": 1}, {"checkpoint": best}, {"model": "resnet8", "epochs": 1})
    (loaded,) = one.networks
    assert is_fixed(loaded)
    assert torch.equal(outputs(loaded), outputs(trained_looking("resnet8", 7).eval()))
    states = {2: one.train(2)[0], 0: one.train(0)[0]}
    assert states[0] != states[2]  # of the same architecture, they are two
    one.take(states)
    assert len(one.networks) == 3
    assert one.networks[0] is loaded


def test_teachers_that_are_taken_again_replace_those_before() -> None:
    one = teachers({"model": "resnet8", "epochs": 1})
    held = one.networks  # as a loss term holds it
    state, _ = one.train(0)
    one.take({0: state})
    one.take({0: state})
    assert len(held) == 1
    again = teachers({"model": "resnet8", "epochs": 1})
    again.take({0: state})
    assert torch.equal(outputs(again.networks[0]), outputs(held[0]))


def test_a_state_that_is_no_teachers_is_an_error() -> None:
    one = teachers({"model": "resnet8", "epochs": 1})
    state, _ = one.train(0)
    for states in ({0: state[:-1]}, {0: b""}, {3: state}):
        with pytest.raises(CheckpointError, match=r"^checkpoint of teacher \d: does not fit its network: [^\n]+$"):
            one.take(states)


def test_a_checkpoint_that_is_no_teacher_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^distillation\.teachers\[1\]\.checkpoint: .+$"):
        teachers({"model": "resnet8", "epochs": 1}, {"checkpoint": str(tmp_path)})


def test_settings_without_distillation_have_no_teachers() -> None:
    one = Teachers(Settings(), few_digits(), CPU)
    assert one.networks == []


# classmates


def snapshot_of(network: nn.Module, peer: int = 1) -> Snapshot:
    one = Grafting(learner(network).state, find_sites(network, (3, 8, 8), "network"), None)
    return one.publish(peer, one.entropies(), torch.empty(0, dtype=torch.int64))


def test_classmates_are_what_their_snapshots_say() -> None:
    own = learner(seeded_network("resnet8", 0)).network
    class_ = SnapshotTeachers(own)
    assert class_.networks == []
    before = copied(own.state_dict())
    others = [trained_looking("resnet8", seed) for seed in (1, 2)]
    class_.take([snapshot_of(other) for other in others])
    for classmate, other in zip(class_.networks, others, strict=True):
        assert is_fixed(classmate)
        assert torch.equal(outputs(classmate), outputs(other.eval()))
    assert same_bits(own.state_dict(), before)
    assert own.training


def test_a_loss_term_sees_the_latest_snapshots() -> None:
    one = learner(seeded_small_net(0))
    class_ = SnapshotTeachers(one.network)
    held = class_.networks
    term = distillation_term(held, temperature=1.0, weight=1.0, dtype=torch.float32)
    pixels, _ = next(few_digits().val.evaluation_batches(20, CPU))
    logits = torch.zeros(20, 10)
    assert term(logits, pixels).item() == 0.0
    class_.take([snapshot_of(seeded_small_net(1))])
    networks = list(held)
    first = outputs(held[0])
    class_.take([snapshot_of(seeded_small_net(2))])
    assert held == networks
    assert not torch.equal(outputs(held[0]), first)
    assert torch.equal(outputs(held[0]), outputs(seeded_small_net(2).eval()))
    assert term(logits, pixels) > 0


def test_classmates_and_students_change_apart() -> None:
    one = learner(seeded_small_net(0))
    one.train_epoch()  # a student has gradients and statistics by then
    class_ = SnapshotTeachers(one.network)
    snapshot = snapshot_of(seeded_small_net(1))
    for array in (snapshot.weights, snapshot.integers, snapshot.entropies):
        array.setflags(write=False)  # as those are that another process lends
    class_.take([snapshot])
    one.loss_terms.append(distillation_term(class_.networks, temperature=1.0, weight=1.0, dtype=torch.float32))
    before = outputs(class_.networks[0])
    student = one.state.buffer.clone()
    one.train_epoch()
    assert torch.equal(outputs(class_.networks[0]), before)
    assert not torch.equal(one.state.buffer, student)
    assert np.array_equal(snapshot.weights, snapshot_of(seeded_small_net(1)).weights)
    assert all(parameter.grad is None for parameter in class_.networks[0].parameters())
