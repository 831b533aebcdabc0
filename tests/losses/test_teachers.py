"""Teachers that are trained or loaded, and the peers' snapshots as teachers."""

import json
from pathlib import Path
from typing import Any

import graft_makers
import numpy as np
import pytest
import torch
from graft_makers import conv_bn_sites
from network_makers import (
    copied,
    few_digits,
    make_learner,
    same_bits,
    seeded_network,
    seeded_small_net,
    trained_looking,
)
from safetensors.torch import save, save_file
from space_makers import make_settings
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.losses.distillation import distillation_term
from graftpop.losses.teachers import SnapshotTeachers, Teachers
from graftpop.models import build
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.tasks.classification import Classification
from graftpop.training.learner import Learner
from graftpop.training.schedules import learning_rate
from graftpop.training.snapshot import Snapshot

CPU = torch.device("cpu")


def direct(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


def distillation_settings(*teachers: dict[str, Any], seed: int = 0) -> Settings:
    training = {"epochs": 3, "batch_size": 60}
    return make_settings(training=training, distillation={"teachers": list(teachers)}).model_copy(update={"seed": seed})


def make_teachers(*teachers: dict[str, Any], seed: int = 0) -> Teachers:
    return Teachers(distillation_settings(*teachers, seed=seed), few_digits(), Classification(), CPU)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
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


def network_state(network: nn.Module) -> bytes:
    return save({key: tensor.contiguous() for key, tensor in network.state_dict().items()})


def is_fixed(network: nn.Module) -> bool:
    """Whether a network is in evaluation mode and requires no gradient."""
    return not any(module.training for module in network.modules()) and not any(
        parameter.requires_grad for parameter in network.parameters()
    )


# teachers


def test_trained_teacher_equals_a_learner_seeded_by_its_name() -> None:
    settings = distillation_settings({"model": "resnet8", "epochs": 2}, {"model": "resnet8_leaky", "epochs": 1}, seed=3)
    teachers = Teachers(settings, few_digits(), Classification(), CPU)
    for index, (name, epochs) in enumerate([("resnet8", 2), ("resnet8_leaky", 1)]):
        with seeded(derive(3, "initialisation", f"teacher-{index}"), CPU):
            network = build(name, 10)
        learner = Learner(
            network,
            few_digits().train,
            settings.training,
            Classification(),
            lr=learning_rate(settings.training, epochs),
            seed=3,
            peer=f"teacher-{index}",
            device=CPU,
        )
        for _ in range(epochs):
            learner.train_epoch()
        state, num_images, train_s = teachers.train(index)
        teachers.take({index: state})
        assert num_images == 180 * epochs
        assert train_s > 0
        assert same_bits(teachers.networks[-1].state_dict(), dict(network.state_dict()))


def test_trained_teachers_optimizer_refers_to_the_highest_learning_rate() -> None:
    pytest.importorskip("timm")
    training = {"warmup_epochs": 0.5, "schedule": "constant", "optimizer": {"name": "timm:sgdc"}, "weight_decay": 0.1}
    settings = make_settings(training=training, distillation={"teachers": [{"model": "resnet8", "epochs": 1}]})
    with seeded(derive(0, "initialisation", "teacher-0"), CPU):
        network = build("resnet8", 10)
    lr = learning_rate(settings.training, 1)
    Learner(
        network,
        few_digits().train,
        settings.training,
        Classification(),
        lr=lr,
        seed=0,
        peer="teacher-0",
        device=CPU,
        peak_epoch=0.5,
    ).train_epoch()
    teachers = Teachers(settings, few_digits(), Classification(), CPU)
    teachers.take({0: teachers.train(0)[0]})
    assert same_bits(teachers.networks[0].state_dict(), dict(network.state_dict()))


def test_teachers_of_a_task_with_outputs_of_its_own_have_these() -> None:
    class TwelveOutputs(Classification):
        num_outputs = 12

    settings = distillation_settings({"model": "resnet8", "epochs": 1})
    teachers = Teachers(settings, few_digits(), TwelveOutputs(), CPU)
    teachers.take({0: teachers.train(0)[0]})
    assert outputs(teachers.networks[0]).shape == (20, 12)


def test_trained_teacher_is_the_same_at_every_peer_and_fixed() -> None:
    teacher = {"model": "resnet8", "epochs": 1}
    trainer, other = make_teachers(teacher), make_teachers(teacher)
    assert trainer.networks == other.networks == []
    before = torch.get_rng_state()
    state, *_ = trainer.train(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert make_teachers(teacher).train(0)[0] == state
    assert make_teachers(teacher, seed=1).train(0)[0] != state
    for teachers in (trainer, other):
        teachers.take({0: state})
        assert len(teachers.networks) == 1
        assert is_fixed(teachers.networks[0])
    assert torch.equal(outputs(trainer.networks[0]), outputs(other.networks[0]))


def test_checkpoint_teacher_is_loaded_and_kept(checkpoint: str) -> None:
    teachers = make_teachers(
        {"model": "resnet8", "epochs": 1}, {"checkpoint": checkpoint}, {"model": "resnet8", "epochs": 1}
    )
    (loaded,) = teachers.networks
    assert is_fixed(loaded)
    assert torch.equal(outputs(loaded), outputs(trained_looking("resnet8", 7).eval()))
    states = {2: teachers.train(2)[0], 0: teachers.train(0)[0]}
    assert states[0] != states[2]  # equal architectures, different seeds
    teachers.take(states)
    assert teachers.networks[0] is loaded
    assert [network_state(network) for network in teachers.networks[1:]] == [states[0], states[2]]


def test_new_teachers_replace_earlier_ones() -> None:
    teachers = make_teachers({"model": "resnet8", "epochs": 1})
    networks = teachers.networks  # the list that a loss term reads
    state, *_ = teachers.train(0)
    teachers.take({0: state})
    teachers.take({0: state})
    assert len(networks) == 1
    single = make_teachers({"model": "resnet8", "epochs": 1})
    single.take({0: state})
    assert torch.equal(outputs(single.networks[0]), outputs(networks[0]))


def test_state_that_does_not_fit_the_teacher_is_refused() -> None:
    teachers = make_teachers({"model": "resnet8", "epochs": 1})
    state, *_ = teachers.train(0)
    for states in ({0: state[:-1]}, {0: b""}, {3: state}):
        with pytest.raises(CheckpointError, match=r"^checkpoint of teacher [03]: [^\n]+$"):
            teachers.take(states)


def test_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^distillation\.teachers\[1\]\.checkpoint: .+$"):
        make_teachers({"model": "resnet8", "epochs": 1}, {"checkpoint": str(tmp_path)})


def test_settings_without_distillation_have_no_teachers() -> None:
    teachers = Teachers(Settings(), few_digits(), Classification(), CPU)
    assert teachers.networks == []


# snapshots as teachers


def snapshot_of(network: nn.Module, peer: int = 1) -> Snapshot:
    return graft_makers.snapshot_of(make_learner(network).state, conv_bn_sites(network), peer)


def test_snapshot_teachers_have_the_weights_of_their_snapshots() -> None:
    own = make_learner(seeded_network("resnet8", 0)).network
    teachers = SnapshotTeachers(own)
    assert teachers.networks == []
    before = copied(own.state_dict())
    others = [trained_looking("resnet8", seed) for seed in (1, 2)]
    teachers.take([snapshot_of(other) for other in others])
    for teacher, other in zip(teachers.networks, others, strict=True):
        assert is_fixed(teacher)
        assert torch.equal(outputs(teacher), outputs(other.eval()))
    assert same_bits(own.state_dict(), before)
    assert own.training


def test_loss_term_uses_the_latest_snapshots() -> None:
    learner = make_learner(seeded_small_net(0))
    teachers = SnapshotTeachers(learner.network)
    networks = teachers.networks
    term = distillation_term(networks, direct, temperature=1.0, weight=1.0, dtype=torch.float32)
    pixels, _ = next(few_digits().val.evaluation_batches(20, CPU))
    logits = torch.zeros(20, 10)
    assert term(logits, pixels).item() == 0.0
    teachers.take([snapshot_of(seeded_small_net(1))])
    before = list(networks)
    first = outputs(networks[0])
    teachers.take([snapshot_of(seeded_small_net(2))])
    assert networks == before
    assert not torch.equal(outputs(networks[0]), first)
    assert torch.equal(outputs(networks[0]), outputs(seeded_small_net(2).eval()))
    assert term(logits, pixels) > 0
    teachers.take([snapshot_of(seeded_small_net(seed)) for seed in (1, 2)])
    teachers.take([snapshot_of(seeded_small_net(3))])  # a peer has left
    assert networks == before
    assert torch.equal(outputs(networks[0]), outputs(seeded_small_net(3).eval()))


def test_training_the_student_leaves_snapshot_teachers_unchanged() -> None:
    learner = make_learner(seeded_small_net(0))
    learner.train_epoch()  # gives the student gradients and statistics
    teachers = SnapshotTeachers(learner.network)
    snapshot = snapshot_of(seeded_small_net(1))
    for array in (snapshot.weights, snapshot.integers, snapshot.entropies):
        array.setflags(write=False)  # like arrays shared by another process
    teachers.take([snapshot])
    learner.loss_terms.append(
        distillation_term(teachers.networks, direct, temperature=1.0, weight=1.0, dtype=torch.float32)
    )
    before = outputs(teachers.networks[0])
    student = learner.state.buffer.clone()
    learner.train_epoch()
    assert torch.equal(outputs(teachers.networks[0]), before)
    assert not torch.equal(learner.state.buffer, student)
    assert np.array_equal(snapshot.weights, snapshot_of(seeded_small_net(1)).weights)
    assert all(parameter.grad is None for parameter in teachers.networks[0].parameters())
