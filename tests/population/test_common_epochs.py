"""Populations whose peers share their first epochs: one trains alone (`branch_at`), or gradients are averaged."""

import itertools
from typing import Any

import pytest
import torch
import yaml
from network_makers import few_digits, make_learner, same_bits
from population_makers import local_population, run, same, states
from space_makers import assert_refused, make_settings, merged
from torch import Tensor, nn

from graftpop.population import Population
from graftpop.population.group import run_lockstep
from graftpop.seeds import derive
from graftpop.space import parse_space
from graftpop.training.collective import as_numpy_collective

CPU = torch.device("cpu")
TWO = {"training": {"epochs": 4}, "population": {"num_peers": 2}}


def parameters(population: Population) -> list[dict[str, Tensor]]:
    """Return the parameters of every peer, without the statistics of BatchNorm."""
    return [
        {name: tensor for name, tensor in state.items() if name.startswith("network/") and "running" not in name}
        for state in states(population).values()
    ]


# --- branch_at ---


@pytest.mark.parametrize(
    ("total", "num_peers", "branch_at", "per_round", "epochs", "alone"),
    [
        (400, 4, 0.5, 1, 160, 80),
        (400, 2, 0.75, 1, 320, 240),
        (400, 8, 0.5, 1, 92, 48),
        (400, 4, 0.5, 5, 160, 80),
        (44, 2, 0.5, 4, 30, 16),
        (400, 4, 0.0, 1, 100, 0),
        (8, 4, 0.1, 1, 2, 0),
        (8, 4, 0.9, 1, 5, 4),
        (400, 1, 0.5, 1, 400, 200),
    ],
)
def test_total_epochs_count_the_epochs_before_the_branch_once(
    total: int, num_peers: int, branch_at: float, per_round: int, epochs: int, alone: int
) -> None:
    population = {"num_peers": num_peers, "branch_at": branch_at, "epochs_per_round": per_round}
    settings = make_settings(training={"epochs": None, "total_epochs": total}, population=population)
    assert (settings.num_epochs, settings.branch_epoch) == (epochs, alone)
    assert settings.trained_epochs == total


@pytest.mark.parametrize(
    ("epochs", "per_round", "branch_at", "alone"),
    [(4, 1, 0.5, 2), (4, 1, 0.99, 3), (4, 1, 0.1, 0), (1, 1, 0.9, 0), (10, 4, 0.7, 8), (10, 4, 0.4, 4)],
)
def test_branch_follows_whole_rounds_and_leaves_one(epochs: int, per_round: int, branch_at: float, alone: int) -> None:
    settings = make_settings(
        training={"epochs": epochs}, population={"branch_at": branch_at, "epochs_per_round": per_round}
    )
    assert settings.branch_epoch == alone


def test_one_peer_trains_alone_and_the_others_start_as_its_copies() -> None:
    branched = local_population(make_settings(TWO, population={"branch_at": 0.5}))
    single = local_population(make_settings(TWO, population={"num_peers": 1}))
    for _ in range(2):
        done, expected = branched.step(), single.step()
        assert [row["peer"] for row in done.peers] == [0]
        assert done.score == expected.score
    trunk = states(single)[0]
    assert all(same_bits(state, trunk) for state in states(branched).values())

    apart = local_population(make_settings(TWO))
    apart.load(dict.fromkeys(range(2), dict(single.save())[0]), 2, {})
    for _ in range(2):
        done, expected = branched.step(), apart.step()
        assert [row["peer"] for row in done.peers] == [0, 1]
        assert sum(row["train_images"] for row in done.peers) == sum(row["train_images"] for row in expected.peers)
    own = states(branched)
    assert all(same_bits(own[peer], expected_state) for peer, expected_state in states(apart).items())
    assert not same_bits(own[0], own[1])


def test_no_exchange_follows_the_rounds_before_the_branch() -> None:
    _, rounds = run(make_settings(TWO, population={"branch_at": 0.5}, graft={}))
    assert [bool(done.grafts) for done in rounds] == [False, False, True, False]


def test_teachers_are_trained_and_counted_once() -> None:
    teachers = {"teachers": [{"model": "resnet8", "epochs": 1}] * 2}
    settings = make_settings(TWO, population={"branch_at": 0.25}, distillation=teachers)
    images = local_population(settings).step().peers[0]["train_images"]
    alone = local_population(make_settings(TWO, population={"num_peers": 1}, distillation=teachers))
    assert images == alone.step().peers[0]["train_images"]


def test_outer_optimizer_starts_at_the_branch() -> None:
    """A pseudo-gradient from the initial weights would move the peers by the whole training before the branch."""
    settings = make_settings(TWO, population={"branch_at": 0.5}, outer={})
    population = local_population(settings)
    population.step()
    population.step()
    before, *_ = parameters(population)
    done = population.step()
    after, *_ = parameters(population)
    gradient, *_ = (row["value"] for row in done.diagnostics if row["diagnostic"] == "outer_gradient")
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before if before[name].is_floating_point()])
    assert float(moved.norm()) == pytest.approx(0.7 * 1.9 * gradient, rel=1e-3)


def test_outer_optimizer_starts_alike_where_a_hook_changes_each_peer_its_own_way() -> None:
    """RePr revives filters before the first epoch after the branch, with random directions of each peer's own."""
    cycle = {"S1": 1, "S2": 1, "N": 1, "rate": 0.5}
    population = local_population(make_settings(TWO, population={"branch_at": 0.5}, outer={}, repr=cycle))
    for _ in range(3):
        population.step()
    first, second = parameters(population)
    assert same_bits(first, second)


def test_user_defined_rule_begins_at_the_branch() -> None:
    settings = make_settings(TWO, population={"branch_at": 0.5}, exchange="python:user_parts.Anchored")
    population = local_population(settings)
    population.step()
    population.step()
    common = torch.cat([tensor.flatten() for tensor in parameters(population)[0].values() if tensor.dim()])
    assert "exchange/anchor" not in states(population)[0]
    population.step()
    for state in states(population).values():
        assert set(common.tolist()) <= set(state["exchange/anchor"].tolist())


@pytest.mark.parametrize("round", [1, 2, 3], ids=["before the branch", "at the branch", "after it"])
def test_branched_population_resumes_to_the_bit(round: int) -> None:
    settings = make_settings(TWO, population={"branch_at": 0.5}, graft={})
    whole, resumed = local_population(settings), local_population(settings)
    for _ in range(round):
        whole.step()
    resumed.load(dict(whole.save()), round, {})
    for _ in range(settings.num_rounds - round):
        assert whole.step().grafts == resumed.step().grafts
    assert same(states(resumed), states(whole))


def test_patience_does_not_end_the_training_before_the_branch() -> None:
    training = {"epochs": 12, "lr": 0.0001, "schedule": "constant", "patience": 1}
    population = local_population(make_settings(TWO, training=training, population={"branch_at": 0.5}))
    rounds = [population.step() for _ in range(7)]
    assert not any(done.is_last for done in rounds[:6])
    scores = [done.score for done in rounds]
    assert any(later <= earlier for earlier, later in itertools.pairwise(scores[:6]))


@pytest.mark.parametrize("cause", ["{mutual: {}}", "{population: {mode: async}}", "{population: {sync_until: 0.5}}"])
def test_methods_that_need_all_peers_from_the_start_refuse_a_branch(cause: str) -> None:
    tree = merged(yaml.safe_load(cause), {"graft": {}, "population": {"branch_at": 0.5}})
    assert_refused(yaml.safe_dump(tree), "population.branch_at", "got 0.5")


@pytest.mark.parametrize(
    ("key", "values"),
    [("training.optimizer", [{"name": "adam"}, {"name": "rmsprop"}]), ("training.momentum", [0.0, 0.9])],
)
def test_peers_whose_states_differ_cannot_start_as_copies(key: str, values: list[Any]) -> None:
    population = {"branch_at": 0.5, "diversity": {key: values}}
    assert_refused(yaml.safe_dump({"population": population}), "population.branch_at", "got 0.5", key)
    parse_space({"population": population | {"branch_at": 0.0}})
    parse_space({"population": population | {"diversity": {"training.weight_decay": [0.0, 0.1]}}})


# --- sync_until ---


def without_batchnorm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averaged_gradients_are_those_of_the_joint_batch(accumulate: int) -> None:
    training: dict[str, Any] = {"lr": 0.1, "schedule": "constant", "momentum": 0.5, "weight_decay": 0.0}
    training |= {"batch_size": 30, "accumulate": accumulate}
    with torch.random.fork_rng(devices=[]):
        learners = [make_learner(without_batchnorm(), peer=peer, **training) for peer in range(2)]
        joint = without_batchnorm()
    for learner in learners:
        learner.sync_epochs = 1
    epochs = {peer: as_numpy_collective(learner.epoch_steps(), CPU) for peer, learner in enumerate(learners)}
    assert len(dict(run_lockstep(epochs))) == 2

    sgd = torch.optim.SGD(joint.parameters(), lr=0.1, momentum=0.5)
    batches = [few_digits().train.training_batches(30, derive(0, "data", peer, 0), CPU) for peer in range(2)]
    together = [[torch.cat(pair) for pair in zip(*both, strict=True)] for both in zip(*batches, strict=True)]
    for first in range(0, len(together), accumulate):
        images, labels = (torch.cat(parts) for parts in zip(*together[first : first + accumulate], strict=True))
        sgd.zero_grad()
        nn.functional.cross_entropy(joint(images), labels).backward()
        sgd.step()
    for learner in learners:
        own = torch.cat([weight.detach().flatten() for weight in learner.network.parameters()])
        expected = torch.cat([weight.detach().flatten() for weight in joint.parameters()])
        assert torch.allclose(own, expected, atol=1e-5)


class PartlyUsed(nn.Module):
    """A network with a weight that no peer uses, and a weight that the first peer alone uses."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.layers, self.is_first = without_batchnorm(), is_first
        self.of_nobody, self.of_first = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits + self.of_first if self.is_first else logits


def test_weight_that_no_peer_uses_stays_as_it_is() -> None:
    """Like that of one network: a gradient of 0 would let it decay."""
    training: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.5, "batch_size": 30}
    with torch.random.fork_rng(devices=[]):
        learners = [make_learner(PartlyUsed(peer == 0), peer=peer, **training) for peer in range(2)]
    for learner in learners:
        learner.sync_epochs = 1
    epochs = {peer: as_numpy_collective(learner.epoch_steps(), CPU) for peer, learner in enumerate(learners)}
    assert len(dict(run_lockstep(epochs))) == 2
    first, second = (learner.network.state_dict() for learner in learners)
    assert same_bits(first, second)
    assert torch.equal(first["of_nobody"], torch.ones(10))
    assert (first["of_first"] != 1).all()


def test_averaging_gradients_equals_averaging_weights_after_every_step_of_plain_sgd() -> None:
    plain = {"training": {"momentum": 0.0}}
    synced, _ = run(make_settings(TWO, plain, population={"sync_until": 1.0}))
    averaged, _ = run(make_settings(TWO, plain, population={"exchange_every": 1}, outer={"lr": 1.0, "momentum": 0.0}))
    for own, expected in zip(parameters(synced), parameters(averaged), strict=True):
        assert own.keys() == expected.keys()
        assert all(torch.allclose(own[name], expected[name], atol=1e-5) for name in own)


def test_peers_have_equal_weights_as_long_as_gradients_are_averaged() -> None:
    population = local_population(make_settings(TWO, population={"sync_until": 0.5, "exchange_every": 3}, papa={}))
    for number in range(1, 5):
        done = population.step()
        first, second = parameters(population)
        assert same_bits(first, second) == (number <= 2)
        assert bool(done.diagnostics and any(row["diagnostic"] == "papa_share" for row in done.diagnostics)) == (
            number > 2
        )


def test_no_exchange_follows_rounds_of_averaged_gradients() -> None:
    _, rounds = run(make_settings(TWO, population={"sync_until": 0.25}, graft={}))
    assert [bool(done.grafts) for done in rounds] == [False, True, True, False]


def test_one_peer_alone_averages_nothing() -> None:
    synced, _ = run(make_settings(TWO, population={"num_peers": 1, "sync_until": 1.0}))
    plain, _ = run(make_settings(TWO, population={"num_peers": 1}))
    assert same_bits(states(synced)[0], states(plain)[0])


@pytest.mark.parametrize(
    "cause",
    [
        "{mutual: {}}",
        "{population: {mode: async}, graft: {}}",
        "{population: {initialization: own}}",
        "{population: {diversity: learning_rate}}",
        "{population: {diversity: {training.weight_decay: [0, 0.1]}}}",
        "{repr: {S1: 1, S2: 1, N: 1}, training: {epochs: 9}}",
        "{pruning: {}}",
        "{graft: {source: noise}}",
    ],
)
def test_methods_that_part_the_peers_refuse_averaged_gradients(cause: str) -> None:
    tree = merged(yaml.safe_load(cause), {"population": {"sync_until": 0.5}})
    assert_refused(yaml.safe_dump(tree), "population.sync_until", "got 0.5")


def test_exchange_rule_needs_epochs_without_averaged_gradients() -> None:
    assert_refused("{graft: {}, population: {sync_until: 1}}", "population.sync_until", "got 1")
    almost = parse_space({"graft": {}, "population": {"sync_until": 0.999}}).resolve()
    assert almost.sync_epochs == almost.num_epochs - 1


def test_peers_that_average_gradients_share_no_process() -> None:
    assert_refused("{population: {sync_until: 0.5, peers_per_actor: 2}}", "population.peers_per_actor", "sync_until")
    assert_refused("{population: {sync_until: 0.5, min_peers: 1}}", "population.min_peers", "sync_until")
