"""Invariants of each method in populations of real peers on the digits, in one process."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from network_makers import same_bits
from population_makers import States, local_population, networks, run, same, states
from safetensors.torch import load as tensors_from_bytes
from space_makers import RULES, make_settings
from timings import untimed

from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population, Round
from graftpop.settings import Settings

Tree = Mapping[str, Any]

TEACHER = {"teachers": [{"model": "resnet8", "epochs": 1}]}
METHODS: dict[str, Tree] = {
    "averaging": {"graft": {"alpha": 0.5}},
    "l1": {"graft": {"criterion": "l1"}},
    "filter level": {"graft": {"level": "filter"}},
    "filter level by l1": {"graft": {"level": "filter", "criterion": "l1"}},
    "random pairs": {"graft": {}, "population": {"num_peers": 3, "topology": "random_pairs"}},
    "all": {"graft": {}, "population": {"num_peers": 3, "topology": "all"}},
    "best": {"graft": {}, "population": {"num_peers": 3, "topology": "best"}},
    "noise": {"graft": {"source": "noise", "threshold": 20.0}},
    "internal": {"graft": {"source": "internal", "threshold": 4.0}},
    "distillation": {"distillation": TEACHER},
    "cultivation": {"distillation": TEACHER, "graft": {}},
    "mutual": {"mutual": {}},
    "codistillation": {"mutual": {"exchange": "snapshots"}},
    "codistillation and grafting": {"mutual": {"exchange": "snapshots"}, "graft": {}},
    "repr": {"repr": {"S1": 1, "S2": 1, "N": 1}},
    "repr and grafting": {"repr": {"S1": 1, "S2": 1, "N": 1}, "graft": {}},
    "attenuation": {"pruning": {"preset": "attenuation"}},
    "asymptotic soft pruning": {"pruning": {"preset": "asymptotic"}},
    "softer pruning": {"pruning": {"preset": "softer"}},
    "hard pruning": {"pruning": {"preset": "hard", "criterion": "random"}},
    "Gate Decorator": {"pruning": {"preset": "gate_decorator", "target": 0.7, "ticks": 1, "tock_epochs": 1}},
    "gates from weights": {"pruning": {"preset": "dagger", "target": 0.7}},
    "CLR-RNF": {"pruning": {"preset": "clr_rnf", "target": 0.7}},
    "Holistic Filter Pruning": {"pruning": {"preset": "holistic", "target": 0.7}},
    "swa": {"swa": {"start": 0.3}},
    "swa with its own lr": {"swa": {"start": 0.3, "lr": 0.02}},
    "augmentation": {
        "augmentation": {
            "policy": "randaugment",
            "color_jitter": 0.4,
            "erasing": 0.25,
            "mixup": 0.2,
            "cutmix": 1.0,
            "mix_probability": 0.8,
        }
    },
    "augmentation and mutual": {"augmentation": {"mixup": 0.2, "erasing": 0.5}, "mutual": {}, "swa": {"start": 0.3}},
    "accumulation": {"training": {"accumulate": 2, "clip_grad_norm": 0.5}},
    "accumulation in mutual learning": {"mutual": {}, "training": {"accumulate": 2}},
    "ema": {"ema": {"decay": 0.6}},
    "ema and exchange in steps": {"ema": {"decay": 0.6}, "papa": {}, "population": {"exchange_every": 2}},
    "adagrad without decay of vectors": {"training": {"optimizer": {"name": "adagrad"}, "decay_norm_and_bias": False}},
    "nesterov": {"training": {"optimizer": {"nesterov": True}}},
    "warmup": {"training": {"warmup_epochs": 1.5}},
    "repair": {"graft": {}, "population": {"repair": True}},
    "alignment": {"graft": {}, "align": {}},
    "alignment and the mean": {
        "graft": {"level": "filter"},
        "align": {},
        "population": {"num_peers": 3, "topology": "mean", "repair": True, "output": "uniform_soup"},
    },
    "alignment in steps": {"papa": {}, "align": {}, "population": {"exchange_every": 2}},
    "branch": {"population": {"branch_at": 0.4}},
    "late branch": {"population": {"branch_at": 0.7}},
    "branch and steps": {"population": {"branch_at": 0.4, "exchange_every": 2}, "outer": {}, "ema": {"decay": 0.6}},
    "averaged gradients": {"population": {"sync_until": 1.0}},
    "post-local": {"population": {"sync_until": 0.4, "exchange_every": 2}, "outer": {"lr": 1.0, "momentum": 0.0}},
    "pairs": {"diagnostics": {"pairs": True, "thresholds": [0.01, 5.0]}},
}


METHODS |= {rule: {rule: {}} for rule in RULES}
METHODS |= {f"{rule} in steps": {rule: {}, "population": {"exchange_every": 2}} for rule in RULES}
METHODS["user-defined rule"] = {"exchange": "python:user_parts.Pull"}
METHODS["user-defined alpha and criterion"] = {
    "graft": {"alpha": "python:user_parts.keep_the_better", "criterion": "python:user_parts.spread", "level": "filter"}
}


def method_settings(*trees: Tree, **sections: Tree) -> Settings:
    """Return settings of two small peers that train for three rounds of one epoch, overlaid by trees and sections."""
    return make_settings({"training": {"epochs": 3}, "population": {"num_peers": 2}}, *trees, sections)


@cache
def plain_run(num_peers: int = 2) -> tuple[States, list[Round]]:
    """Return the networks and the rounds of plain training, which several tests compare with."""
    population, rounds = run(method_settings(population={"num_peers": num_peers}))
    return networks(population), rounds


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_method_changes_training_and_resumes_to_the_bit(method: Tree) -> None:
    settings = method_settings(method)
    first = local_population(settings)
    first.step()
    second_round = first.step()
    saved, teachers = dict(first.save()), first.save_teachers()
    last_round = first.step()

    resumed = local_population(settings)
    resumed.load(saved, 2, teachers)
    assert same(states(resumed), {peer: tensors_from_bytes(state) for peer, state in saved.items()})
    again = resumed.step()
    assert same(states(resumed), states(first))
    assert list(map(untimed, again.peers)) == list(map(untimed, last_round.peers))
    assert (again.grafts, again.diagnostics) == (last_round.grafts, last_round.diagnostics)
    assert untimed(resumed.finish(again)) == untimed(first.finish(last_round))
    assert bool(second_round.grafts) == (
        method.get("graft", {}).get("source", "external") == "external" and "graft" in method
    )
    if "diagnostics" not in method:
        plain, _ = plain_run(settings.population.num_peers)
        assert not same(networks(first), plain)


def test_grafting_with_alpha_1_equals_the_ensemble() -> None:
    kept, rounds = run(method_settings(graft={"alpha": 1.0}))
    apart, apart_rounds = run(method_settings())
    assert same(networks(kept), networks(apart))
    assert rounds[0].grafts
    settings = method_settings(graft={"alpha": 1.0}, population={"output": "ensemble"})
    assert local_population(settings).finish(rounds[-1]).keys() >= {"val_accuracy", "test_accuracy"}
    outcome, expected = kept.finish(rounds[-1]), apart.finish(apart_rounds[-1])
    assert outcome == expected


def test_mutual_learning_of_one_peer_is_plain_training() -> None:
    mutual, rounds = run(method_settings(mutual={}, population={"num_peers": 1}))
    plain, plain_rounds = plain_run(num_peers=1)
    assert same(networks(mutual), plain)
    assert rounds[-1].score == plain_rounds[-1].score


def test_mutual_weight_0_is_training_on_shared_batches() -> None:
    mutual, _ = run(method_settings(mutual={"weight": 0.0}))
    plain, _ = plain_run()
    assert same_bits(networks(mutual)[0], plain[0])
    assert not same_bits(networks(mutual)[1], plain[1])


def test_equal_peers_under_mutual_learning_train_like_one_peer() -> None:
    """Two peers made equal stay equal under mutual learning, and train as one alone."""
    settings = method_settings(mutual={})
    members = [Peer(settings, 0), Peer(settings, 1)]
    members[1].load(members[0].save())
    population = Population(LocalGroup(members.__getitem__, len(members)), settings)
    population.step()
    after = networks(population)
    alone = local_population(method_settings(population={"num_peers": 1}))
    alone.step()
    assert same_bits(after[0], after[1])
    for name, tensor in networks(alone)[0].items():
        assert torch.allclose(after[0][name].double(), tensor.double(), atol=1e-5), name


def test_attenuation_factor_1_changes_nothing_before_the_end() -> None:
    attenuated = local_population(method_settings(pruning={"factor": 1.0}))
    plain = local_population(method_settings())
    for _ in range(2):
        attenuated.step()
        plain.step()
    assert same(networks(attenuated), networks(plain))
    attenuated.step()
    plain.step()
    assert not same(networks(attenuated), networks(plain))


def test_attenuation_of_no_filter_changes_nothing() -> None:
    assert same(networks(run(method_settings(pruning={"rate": 0.0}))[0]), plain_run()[0])


def test_burn_in_leaves_the_first_rounds_without_an_exchange() -> None:
    _, rounds = run(method_settings(graft={"burn_in_rounds": 1}))
    assert [bool(done.grafts) for done in rounds] == [False, True, False]


def test_teacher_with_weight_0_changes_nothing() -> None:
    taught, rounds = run(method_settings(distillation={**TEACHER, "weight": 0.0}))
    plain, plain_rounds = plain_run()
    trained = networks(taught)
    for peer, state in plain.items():
        for name, tensor in state.items():
            assert torch.equal(tensor, trained[peer][name]), name
    # the peer that trains the teacher counts the teacher's images
    images = [[row["train_images"] for row in done.peers] for done in (*rounds, *plain_rounds)]
    assert images == [[360, 180], *[[180, 180]] * 5]


def test_peers_share_the_training_of_teachers() -> None:
    three = {"teachers": [{"model": "resnet8", "epochs": epochs} for epochs in (1, 2, 1)]}
    population = local_population(method_settings(distillation=three))
    done = population.step()
    assert [row["train_images"] for row in done.peers] == [180 * (1 + 1 + 1), 180 * (1 + 2)]
    assert sorted(population.save_teachers()) == [0, 1, 2]


def test_total_epochs_are_divided_among_the_peers() -> None:
    costs = {}
    for num_peers in (1, 2, 3):
        _, rounds = run(
            method_settings(training={"epochs": None, "total_epochs": 6}, population={"num_peers": num_peers})
        )
        assert len(rounds) == 6 // num_peers
        costs[num_peers] = sum(row["train_images"] for done in rounds for row in done.peers)
    assert set(costs.values()) == {6 * 180}


def test_soup_of_equal_peers_equals_the_peer() -> None:
    settings = method_settings(population={"output": "uniform_soup"})
    members = [Peer(settings, 0), Peer(settings, 1)]
    members[1].load(members[0].save())
    before = tensors_from_bytes(members[0].save())
    members[0].make_soup("uniform_soup", *(member.publish() for member in members))
    after = tensors_from_bytes(members[0].save())
    trained = [name for name in before if name.endswith(("weight", "bias"))]
    assert trained
    assert all(torch.equal(before[name], after[name]) for name in trained)


def test_greedy_soup_is_at_least_as_good_as_the_best_peer() -> None:
    settings = method_settings(population={"output": "greedy_soup", "num_peers": 3})
    population, rounds = run(settings)
    alone = Peer(settings, rounds[-1].best_peer)
    alone.load(dict(population.save())[rounds[-1].best_peer])
    alone.make_soup("uniform_soup", alone.publish())
    reference = alone.ensemble_scores(alone.predict("val"))["accuracy"]
    assert population.finish(rounds[-1])["val_accuracy"] >= reference


def test_ensemble_output_is_the_mean_softmax() -> None:
    population, rounds = run(method_settings(population={"output": "ensemble"}))
    outcome = population.finish(rounds[-1])
    assert outcome["test_accuracy"] == outcome["ensemble_test_accuracy"]
    assert outcome["inference_flops"] == 2 * outcome["flops"]


@pytest.mark.parametrize("output", ["best_peer", "ensemble", "uniform_soup"])
def test_inference_costs_the_flops_of_every_network_of_the_output_after_removal(output: str) -> None:
    settings = method_settings(pruning={"preset": "soft"}, population={"output": output})
    peers = [Peer(settings, 0), Peer(settings, 1)]
    population = Population(LocalGroup(peers.__getitem__, 2), settings)
    rounds = [population.step() for _ in range(settings.num_rounds)]
    outcome = population.finish(rounds[-1])
    costs = [peer.cost() for peer in peers]
    best = outcome["best_peer"]
    expected = sum(cost["flops_left"] for cost in costs) if output == "ensemble" else costs[best]["flops_left"]
    assert outcome["inference_flops"] == expected < len(costs) * outcome["flops"]
    assert outcome["flops_left"] == costs[best]["flops_left"]


def test_removed_filters_leave_a_smaller_network_in_the_records() -> None:
    population, rounds = run(method_settings(pruning={"preset": "soft"}, population={"num_peers": 1}))
    outcome = population.finish(rounds[-1])
    assert outcome["removed_filters"] > 0
    assert outcome["parameters_left"] < outcome["parameters"]
    assert outcome["flops_left"] < outcome["flops"]
    kept, rounds = run(method_settings(pruning={"preset": "soft", "remove": False}, population={"num_peers": 1}))
    assert "removed_filters" not in kept.finish(rounds[-1])


def test_diagnostics_are_recorded_by_round_peer_and_pair() -> None:
    _, rounds = run(
        method_settings(diagnostics={"pairs": True, "thresholds": [0.01, 1000.0]}, population={"num_peers": 3})
    )
    for done in rounds:
        rows = {(row["peer"], row["other"], row["diagnostic"]): row["value"] for row in done.diagnostics}
        assert {row["round"] for row in done.diagnostics} == {done.round}
        names = ("network_information_nats", "num_filters_below_0.01", "num_filters_below_1000")
        pairs = [(peer, other) for peer in range(3) for other in range(peer + 1, 3)]
        assert set(rows) == {(peer, None, name) for peer in range(3) for name in names} | {
            (*pair, name) for pair in pairs for name in ("distance", "disagreement")
        }
        for peer, row in enumerate(done.peers):
            assert rows[peer, None, "network_information_nats"] == pytest.approx(3 * (row["mean_entropy_nats"] or 0))
            assert rows[peer, None, "num_filters_below_1000"] == 8 + 16 + 10
        assert all(rows[*pair, "distance"] > 0 and 0 <= rows[*pair, "disagreement"] <= 1 for pair in pairs)


def test_averaged_peers_have_equal_weights() -> None:
    """Right after an exchange with alpha 1/2 over two peers their distance is zero."""
    population = local_population(method_settings(graft={"alpha": 0.5}))
    population.step()
    after = networks(population)
    floats = [name for name, tensor in after[0].items() if tensor.is_floating_point()]
    assert all(torch.allclose(after[0][name], after[1][name], atol=1e-6) for name in floats)
