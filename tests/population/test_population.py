"""Rounds of populations that graft, with real peers on the digits in one process."""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from functools import cache, partial
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
import references
import torch
from network_makers import same_bits, seeded_network
from public_names import COLUMNS
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from space_makers import make_settings
from torch import Tensor

from graftpop.errors import CheckpointError
from graftpop.metrics import ACCURACY
from graftpop.models.card import read_card
from graftpop.peer.peer import Peer
from graftpop.population import Calls, LocalGroup, Population, Round
from graftpop.population.group import ResultMode
from graftpop.settings import Settings
from graftpop.sites import find_sites

States = dict[int, dict[str, Tensor]]


def grafting_settings(**sections: Mapping[str, Any] | None) -> Settings:
    """Return settings of three resnet8 peers that graft, overlaid by sections; None removes a section."""
    return make_settings({"graft": {}, "model": {"name": "resnet8"}}, sections)


def peers(settings: Settings) -> list[Peer]:
    return [Peer(settings, index) for index in range(settings.population.num_peers)]


def local_population(settings: Settings) -> Population:
    return Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)


def states(population: Population) -> States:
    return {peer: tensors_from_bytes(content) for peer, content in population.save()}


def network_state(peer: Peer) -> dict[str, Tensor]:
    saved = tensors_from_bytes(peer.save())
    return {name: saved[f"network/{name}"] for name in seeded_network("resnet8").state_dict()}  # in module order


def same_states(one: States, other: States) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[peer], other[peer]) for peer in one)


def run(settings: Settings) -> tuple[list[Round], States]:
    population = local_population(settings)
    rounds = [population.step() for _ in range(settings.num_rounds)]
    return rounds, states(population)


@cache
def grafted() -> tuple[list[Round], States]:
    """Return the rounds and the last states of the standard population."""
    return run(grafting_settings())


class ReversedGroup(LocalGroup):
    """A group whose peers run, and are yielded, in reversed order."""

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        yield from super().run(method, dict(sorted(calls.items(), reverse=True)), timeout_s, result_mode=result_mode)


def test_published_snapshots_do_not_change() -> None:
    group = LocalGroup(partial(Peer, grafting_settings()), 2)

    def ask(method: str, peer: int, *arguments: Any) -> Any:
        return next(group.run(method, {peer: arguments}, math.inf, result_mode="ref"))[1]

    snapshot = ask("publish", 0)
    before = copy.deepcopy(snapshot)
    ask("train", 0, 1)
    ask("exchange", 0, ask("publish", 1))
    for name in ("weights", "integers", "entropies", "predicted"):
        assert np.array_equal(getattr(snapshot, name), getattr(before, name))
    assert not np.array_equal(ask("publish", 0).weights, before.weights)


@pytest.mark.parametrize("num_peers", [2, 3])
def test_round_equals_the_formula_applied_to_the_snapshots(num_peers: int) -> None:
    settings = grafting_settings(population={"num_peers": num_peers})
    population = local_population(settings)
    done = population.step()

    twins = peers(settings)
    for twin in twins:
        twin.train(1)
    published = [network_state(twin) for twin in twins]
    snapshots = [twin.publish() for twin in twins]
    found = find_sites(seeded_network("resnet8"), (3, 8, 8), "resnet8", "conv_bn")
    sites = [(site.layer, site.norm or "") for site in found]
    expected_alphas = []
    for receiver, state in states(population).items():
        donor = (receiver - 1) % num_peers
        entropies = [
            [references.entropy(published[peer][f"{conv}.weight"].flatten()) for conv, _ in sites]
            for peer in (receiver, donor)
        ]
        assert snapshots[receiver].entropies.tolist() == pytest.approx(entropies[0], abs=1e-9)
        alphas = [references.adaptive_alpha(own, given, A=0.4, c=500) for own, given in zip(*entropies, strict=True)]
        expected_alphas += alphas
        expected = references.site_graft(published[receiver], published[donor], alphas, sites)
        for name, value in expected.items():
            assert np.allclose(state[f"network/{name}"].double().numpy(), value, rtol=1e-6, atol=1e-6), name
    assert done.grafts["alpha"] == pytest.approx(expected_alphas, abs=1e-9)


def test_order_of_the_peers_does_not_change_the_result() -> None:
    settings = grafting_settings()
    population = Population(ReversedGroup(partial(Peer, settings), settings.population.num_peers), settings)
    rounds = [population.step() for _ in range(2)]
    assert same_states(states(population), grafted()[1])
    assert [done.grafts for done in rounds] == [done.grafts for done in grafted()[0]]
    assert [[row["peer"] for row in done.peers] for done in rounds] == [[0, 1, 2]] * 2


def test_last_round_does_not_graft() -> None:
    rounds, after_one = run(grafting_settings(training={"epochs": 1}))
    _, trained_only = run(grafting_settings(training={"epochs": 1}, graft=None))
    assert [(done.is_last, done.grafts) for done in rounds] == [(True, {})]
    assert same_states(after_one, trained_only)
    assert [(done.is_last, bool(done.grafts)) for done in grafted()[0]] == [(False, True), (True, False)]


def test_grafting_changes_the_weights_of_every_peer() -> None:
    _, apart = run(grafting_settings(graft=None))
    assert not any(same_bits(apart[peer], grafted()[1][peer]) for peer in range(3))


def test_last_round_trains_the_remaining_epochs() -> None:
    settings = grafting_settings(training={"epochs": 3}, population={"num_peers": 2, "epochs_per_round": 2})
    rounds, _ = run(settings)
    assert settings.num_rounds == 2
    assert [[row["epoch"] for row in done.peers] for done in rounds] == [[2, 2], [3, 3]]
    assert [[row["train_images"] for row in done.peers] for done in rounds] == [[360, 360], [180, 180]]
    assert [done.is_last for done in rounds] == [False, True]


def test_population_resumed_from_a_checkpoint_gives_the_same_bits() -> None:
    settings = grafting_settings()
    first = local_population(settings)
    first.step()
    saved = dict(first.save())

    second = local_population(settings)
    second.load(saved, first.round, {})
    done = second.step()
    assert second.round == 2
    assert done.is_last
    assert same_states(states(second), grafted()[1])
    timing = {"train_s", "images_per_s", "exchange_s"}
    for row, expected in zip(done.peers, grafted()[0][1].peers, strict=True):
        assert {key: value for key, value in row.items() if key not in timing} == {
            key: value for key, value in expected.items() if key not in timing
        }


def test_equal_settings_give_equal_bits_and_another_seed_others() -> None:
    assert same_states(run(grafting_settings())[1], grafted()[1])
    other = Settings.model_validate(grafting_settings().model_dump() | {"seed": 1})
    assert not same_states(run(other)[1], grafted()[1])


def test_alpha_1_equals_no_grafting() -> None:
    _, kept = run(grafting_settings(graft={"alpha": 1.0}))
    _, apart = run(grafting_settings(graft=None))
    assert same_states(kept, apart)


def test_alpha_0_passes_networks_around_the_ring() -> None:
    settings = grafting_settings(graft={"alpha": 0.0})
    population = local_population(settings)
    population.step()
    twins = peers(settings)
    for twin in twins:
        twin.train(1)
    for receiver, state in states(population).items():
        donor = network_state(twins[(receiver - 1) % 3])
        assert all(torch.equal(state[f"network/{name}"], tensor) for name, tensor in donor.items())


def test_peers_start_from_different_weights() -> None:
    weights = [state["network/conv1.weight"] for state in states(local_population(grafting_settings())).values()]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


@pytest.mark.parametrize(
    ("diversity", "rates"), [("none", [0.05, 0.05, 0.05]), ("learning_rate", [0.0125, 0.0375, 0.05])]
)
def test_peers_may_have_different_learning_rates(diversity: str, rates: list[float]) -> None:
    done = local_population(grafting_settings(population={"diversity": diversity})).step()
    assert [row["lr"] for row in done.peers] == pytest.approx(rates)


def test_rows_have_the_columns_of_the_tables() -> None:
    for done in grafted()[0]:
        assert all(set(row) == set(COLUMNS["rounds"]) - {"trial_id"} for row in done.peers)
        assert {row["round"] for row in done.peers} == {done.round}
    first = grafted()[0][0].grafts
    assert set(first) == set(COLUMNS["grafts"]) - {"trial_id"}
    assert {len(column) for column in first.values()} == {3 * 7}
    assert first["receiver"] == [receiver for receiver in range(3) for _ in range(7)]
    assert first["donor"] == [donor for donor in (2, 0, 1) for _ in range(7)]
    assert first["round"] == [1] * 21
    assert first["site"][:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


def test_rows_hold_consistent_plain_numbers() -> None:
    done = grafted()[0][0]
    json.dumps([done.peers, done.grafts])
    for row in done.peers:
        assert 0 <= ACCURACY.value_of(row) <= 1
        assert row["images_per_s"] == pytest.approx(row["train_images"] / row["train_s"])
        of_peer = [
            entropy
            for receiver, entropy in zip(done.grafts["receiver"], done.grafts["receiver_entropy_nats"], strict=True)
            if receiver == row["peer"]
        ]
        assert row["mean_entropy_nats"] == pytest.approx(sum(of_peer) / 7)
    assert done.score == max(map(ACCURACY.value_of, done.peers))
    assert ACCURACY.value_of(done.peers[done.best_peer]) == done.score


def test_round_metrics_are_measured_before_the_exchange() -> None:
    apart = local_population(grafting_settings(graft=None)).step()
    metrics = itemgetter("train_loss", "val_loss", "val_accuracy", "num_invalid_filters", "mean_entropy_nats")
    for row, expected in zip(grafted()[0][0].peers, apart.peers, strict=True):
        assert metrics(row) == metrics(expected)


def test_first_of_equally_accurate_peers_is_the_best() -> None:
    rows: list[Any] = [{"peer": peer, "val_accuracy": accuracy} for peer, accuracy in enumerate([0.5, 0.7, 0.7])]
    done = Round(1, True, rows)
    assert (done.best_peer, done.score) == (1, 0.7)


def test_ensemble_accuracy_is_that_of_the_mean_softmax() -> None:
    settings = grafting_settings(graft=None)
    members = peers(settings)
    population = Population(LocalGroup(members.__getitem__, len(members)), settings)
    done = population.step()
    outcome = population.finish(done)
    tests = [member.predict("test") for member in members]
    labels = tests[0][1]
    num_right, num_right_of_best = 0, 0
    for image, label in enumerate(labels):
        mean = [sum(float(probabilities[image][k]) for probabilities, _ in tests) / 3 for k in range(10)]
        num_right += mean.index(max(mean)) == label
        own = tests[done.best_peer][0][image].tolist()
        num_right_of_best += own.index(max(own)) == label
    assert len(labels) == 359
    assert outcome["ensemble_test_accuracy"] == num_right / len(labels)
    assert outcome["test_accuracy"] == num_right_of_best / len(labels)
    assert outcome["val_accuracy"] == done.score
    assert all(np.allclose(probabilities.sum(1), 1, atol=1e-5) for probabilities, _ in tests)


def test_population_of_one_peer_runs() -> None:
    rounds, _ = run(grafting_settings(population={"num_peers": 1}, graft=None))
    assert [len(done.peers) for done in rounds] == [1, 1]
    assert rounds[-1].best_peer == 0


def test_truncated_or_foreign_checkpoint_is_refused() -> None:
    peer = peers(grafting_settings(population={"num_peers": 2}))[0]
    state = peer.save()
    with pytest.raises(CheckpointError, match=r"^checkpoint of peer 0: .*safetensors"):
        peer.load(state[: len(state) // 2])
    other = Peer(grafting_settings(model={"name": "resnet20"}), 0)
    with pytest.raises(CheckpointError, match=r"checkpoint: not one of this network"):
        peer.load(other.save())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch", torch.tensor(0.5), "it has no epoch, which is one whole number"),
        ("epoch", torch.tensor([1, 2]), "it has no epoch, which is one whole number"),
        ("epoch", torch.tensor(-5), r"epoch .*\[0, 2\], got -5"),
        ("epoch", torch.tensor(10**15), r"epoch .*\[0, 2\], got 10{15}"),
        ("epoch", None, "it has no epoch"),
        ("momentum/conv1.weight", torch.zeros(1), r"the momentum of conv1.weight must have the shape \(16, 3, 3, 3\)"),
        (
            "momentum/conv1.weight",
            torch.zeros(16, 3, 3, 3, dtype=torch.float64),
            "the momentum of conv1.weight must have",
        ),
        ("network/conv1.weight", torch.full((16, 3, 3, 3), float("nan")), "weights must be finite"),
        ("network/conv1.weight", torch.zeros(1), "not one of this network"),
        ("teacher_images", torch.tensor(float("inf")), "teacher_images"),
        ("teacher_images", None, "teacher_images"),
        ("teacher_s", torch.tensor([1.0, 2.0]), "teacher_s"),
        ("teacher_s", torch.tensor(float("nan")), "teacher_s"),
    ],
)
def test_invalid_peer_state_is_refused_in_one_line(name: str, value: Tensor | None, message: str) -> None:
    peer = Peer(grafting_settings(), 0)
    tensors = tensors_from_bytes(peer.save())
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    with pytest.raises(CheckpointError, match=message) as raised:
        peer.load(tensors_to_bytes(tensors))
    assert "\n" not in str(raised.value)


def test_model_card_describes_network_and_input() -> None:
    card = Peer(grafting_settings(), 0).model_card()
    assert (card.model, card.num_classes, card.image_shape) == ("resnet8", 10, (3, 8, 8))
    assert card.class_names == tuple(str(digit) for digit in range(10))
    assert read_card(json.dumps(card.to_dict())) == card
    assert len(card.mean) == len(card.std) == 3


def test_peers_leave_the_global_torch_generator_unchanged() -> None:
    settings = grafting_settings(population={"num_peers": 2})
    before = torch.get_rng_state()
    run(settings)
    assert torch.equal(torch.get_rng_state(), before)


def test_compat_exchange_in_a_population_equals_the_released_code() -> None:
    settings = grafting_settings(graft={"compat": "released_code"}, population={"num_peers": 2})
    population = local_population(settings)
    done = population.step()
    twins = peers(settings)
    for twin in twins:
        twin.train(1)
    published = [network_state(twin) for twin in twins]
    for receiver, state in states(population).items():
        reference = seeded_network("resnet8")
        reference.load_state_dict(published[receiver])
        alphas = references.released_graft(reference, published[1 - receiver], A=0.4, c=500)
        assert done.grafts["alpha"][7 * receiver : 7 * receiver + 7] == list(alphas.values())
        assert all(torch.equal(state[f"network/{name}"], tensor) for name, tensor in reference.state_dict().items())


@pytest.mark.parametrize(("initialization", "are_equal"), [("own", False), ("same", True)])
def test_peers_may_start_from_the_same_weights(initialization: str, are_equal: bool) -> None:
    settings = grafting_settings(population={"initialization": initialization})
    first, second = (torch.tensor(Peer(settings, index).publish().weights) for index in range(2))
    assert torch.equal(first, second) == are_equal
