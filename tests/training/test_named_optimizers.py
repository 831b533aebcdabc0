"""The optimizers that `training.optimizer` names, against torch's and timm's in plain loops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from network_makers import copied, few_digits, make_learner, same_bits, seeded_small_net
from torch import nn
from torch.nn import functional

from graftpop.errors import CheckpointError, ModelError
from graftpop.seeds import derive
from graftpop.training.learner import Learner
from graftpop.training.named_optimizers import hidden_weights

CPU = torch.device("cpu")
Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def deep_net() -> nn.Module:
    """Return a network of which 2.weight and 4.weight belong to hidden layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.Flatten(),
            nn.Linear(72, 24),
            nn.LayerNorm(24),
            nn.Linear(24, 24),
            nn.ReLU(),
            nn.Linear(24, 10),
        )


def learner_with(optimizer: dict[str, Any], network: nn.Module | None = None, **training: Any) -> Learner:
    return make_learner(
        deep_net() if network is None else network, schedule="constant", lr=0.01, optimizer=optimizer, **training
    )


def train_plainly(network: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    """Train for two epochs, as a learner with seed 0 does."""
    network.train()
    for epoch in range(2):
        for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, epoch), CPU):
            for optimizer in optimizers:
                optimizer.zero_grad()
            functional.cross_entropy(network(pixels), labels).backward()
            for optimizer in optimizers:
                optimizer.step()


def assert_equal_after_training(learner: Learner, network: nn.Module) -> None:
    for _ in range(2):
        learner.train_epoch()
    for name, tensor in network.state_dict().items():
        assert torch.allclose(learner.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-4), name


def groups_of(network: nn.Module, *, decay_vectors: bool) -> list[dict[str, Any]]:
    matrices = [weight for weight in network.parameters() if weight.dim() > 1 or decay_vectors]
    vectors = [weight for weight in network.parameters() if weight.dim() < 2]
    return [{"params": matrices}, *([] if decay_vectors else [{"params": vectors, "weight_decay": 0.0}])]


@pytest.mark.parametrize("decay_vectors", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        ({"name": "sgd"}, lambda groups: torch.optim.SGD(groups, 0.01, 0.8, weight_decay=0.5)),
        (
            {"name": "sgd", "nesterov": True},
            lambda groups: torch.optim.SGD(groups, 0.01, 0.8, weight_decay=0.5, nesterov=True),
        ),
        (
            {"name": "adamw", "betas": [0.8, 0.9], "eps": 1e-6},
            lambda groups: torch.optim.AdamW(groups, 0.01, (0.8, 0.9), 1e-6, weight_decay=0.5),
        ),
        (
            {"name": "rmsprop", "centered": True},
            lambda groups: torch.optim.RMSprop(groups, 0.01, momentum=0.8, weight_decay=0.5, centered=True),
        ),
        ({"name": "nadam"}, lambda groups: torch.optim.NAdam(groups, 0.01, weight_decay=0.5)),
    ],
    ids=["sgd", "nesterov", "adamw", "rmsprop", "nadam"],
)
def test_learner_trains_as_torchs_optimizer(optimizer: dict[str, Any], make: Make, decay_vectors: bool) -> None:
    network = deep_net()
    train_plainly(network, make(groups_of(network, decay_vectors=decay_vectors)))
    learner = learner_with(optimizer, momentum=0.8, weight_decay=0.5, decay_norm_and_bias=decay_vectors)
    assert_equal_after_training(learner, network)


@pytest.mark.parametrize("name", ["lamb", "lion", "muon"])
def test_learner_trains_as_timms_optimizer(name: str) -> None:
    timm = pytest.importorskip("timm.optim")
    network = deep_net()
    groups = groups_of(network, decay_vectors=False)
    train_plainly(network, timm.create_optimizer_v2(groups, name, lr=0.01, weight_decay=0.5, momentum=0.8))
    learner = learner_with({"name": f"timm:{name}"}, momentum=0.8, weight_decay=0.5, decay_norm_and_bias=False)
    assert_equal_after_training(learner, network)


@pytest.mark.parametrize(
    ("arguments", "scale"), [({}, "match_rms_adamw"), ({"adjust_lr_fn": "original", "ns_steps": 3}, "original")]
)
def test_muon_trains_hidden_weights_and_adamw_the_rest(arguments: dict[str, Any], scale: str) -> None:
    network = deep_net()
    hidden = [network.get_parameter("2.weight"), network.get_parameter("4.weight")]
    rest = [weight for weight in network.parameters() if all(weight is not one for one in hidden)]
    muon = torch.optim.Muon(hidden, 0.01, 0.5, 0.8, adjust_lr_fn=scale, ns_steps=arguments.get("ns_steps", 5))
    train_plainly(network, muon, torch.optim.AdamW(rest, 0.01, weight_decay=0.5))
    learner = learner_with({"name": "muon", **arguments}, momentum=0.8, weight_decay=0.5)
    assert_equal_after_training(learner, network)


def test_hidden_weights_are_neither_first_nor_last_nor_embeddings() -> None:
    assert list(hidden_weights(deep_net())) == ["2.weight", "4.weight"]
    text = nn.Sequential(nn.Embedding(9, 8), nn.Embedding(7, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 9))
    assert list(hidden_weights(text)) == ["2.weight", "3.weight"]
    attention = nn.Sequential(nn.Linear(4, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3))
    assert list(hidden_weights(attention)) == ["1.in_proj_weight", "1.out_proj.weight"]


def test_muon_without_hidden_weights_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^training\.optimizer\.name: muon [^\n]*timm:muon"):
        learner_with({"name": "muon"}, seeded_small_net())


RESUMED = [
    {"name": "sgd", "nesterov": True},
    {"name": "adam", "amsgrad": True},
    {"name": "adagrad"},
    {"name": "muon"},
    {"name": "timm:lamb"},  # counts its steps in its groups
    {"name": "timm:adamp"},  # counts them in Python's numbers
]


@pytest.mark.parametrize("optimizer", RESUMED, ids=lambda optimizer: optimizer["name"])
def test_optimizer_resumes_and_starts_anew_to_the_bit(optimizer: dict[str, Any]) -> None:
    if optimizer["name"].startswith("timm:"):
        pytest.importorskip("timm")
    options: dict[str, Any] = {"decay_norm_and_bias": False, "weight_decay": 0.5}
    undisturbed = learner_with(optimizer, **options)
    fresh = copied(undisturbed.state_dict())
    undisturbed.train_epoch()
    saved = copied(undisturbed.state_dict())
    undisturbed.train_epoch()
    resumed = learner_with(optimizer, **options)
    resumed.train_epoch()
    resumed.load_state_dict(saved)
    resumed.train_epoch()
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())
    for name, tensor in fresh.items():
        if name.startswith("network/"):
            resumed.network.state_dict()[name.removeprefix("network/")].copy_(tensor)
    resumed.continue_at(0)
    resumed.train_epoch()
    assert same_bits(resumed.state_dict(), saved)


def test_damaged_counts_of_an_optimizer_are_refused() -> None:
    pytest.importorskip("timm")
    learner = learner_with({"name": "timm:adamp"})
    learner.train_epoch()
    state = learner.state_dict()
    (count, *_) = [name for name in state if name.startswith("optimizer_numbers/")]
    with pytest.raises(CheckpointError, match="number"):
        learner.load_state_dict({**state, count: torch.zeros(2)})
