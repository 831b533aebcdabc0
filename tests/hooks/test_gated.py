"""Gated pruning: what trains in which epoch, what is dropped after it, and resuming."""

from typing import Any

import pytest
import torch
from hook_makers import CONVS, NORMS, WIDTHS, entries, filter_entries, three_site_learner, train
from network_makers import same_bits
from torch import Tensor

from graftpop.errors import ModelError
from graftpop.hooks.data_criteria import gate_products
from graftpop.hooks.gated import GatedPruning
from graftpop.hooks.gated_phases import Phases
from graftpop.hooks.pruning_plan import plan_pruning
from graftpop.settings import PruningSettings
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

EPOCHS = 8
UNITS = sum(WIDTHS)
METHOD: dict[str, Any] = {
    "criterion": "taylor",
    "allocation": "global",
    "schedule": "gated",
    "ticks": 2,
    "tock_epochs": 1,
    "finetune": 0.25,
    "sparsity": 0.0,
    "rate": 0.5,
}
"""Tock, tick, tick, tock, tick, tick, and two epochs of fine-tuning."""


def make(network: int = 0, **settings: Any) -> tuple[Learner, list[SiteFilters], GatedPruning]:
    learner, filters = three_site_learner(network, epochs=EPOCHS)
    pruning = PruningSettings.model_validate({**METHOD, **settings})
    plan = plan_pruning(pruning, learner.network, [site.site for site in filters], (3, 8, 8), "three sites")
    return learner, filters, GatedPruning(learner, filters, pruning, plan, epochs=EPOCHS, seed=0, peer=0)


def num_dropped(learner: Learner) -> int:
    return sum(int((~learner.state[f"{norm}.weight"].bool()).sum()) for norm in NORMS)


def test_phases_alternate_between_the_first_and_the_last_epoch() -> None:
    phases = Phases(first=1, last=9, ticks=2, tock_epochs=3)
    names = ["train", "tock", "tock", "tock", "tick", "tick", "tock", "tock", "tock", "train", "train"]
    assert [phases.of(epoch) for epoch in range(11)] == names
    assert [phases.num_ticks(epoch) for epoch in range(11)] == [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2]


def test_only_gates_shifts_and_the_output_layer_train_in_a_tick() -> None:
    learner, _, hook = make()
    train(learner, hook, 1)
    hook.before_epoch(1)
    before = entries(learner)
    learner.train_epoch()
    after = entries(learner)
    changed = {name for name in before if name.startswith("network/") and not before[name].equal(after[name])}
    statistics = {f"network/{norm}.{key}" for norm in NORMS for key in ("running_mean", "running_var")}
    trained = {f"network/{norm}.{key}" for norm in NORMS for key in ("weight", "bias")}
    assert changed - {f"network/{norm}.num_batches_tracked" for norm in NORMS} == statistics | trained | {
        "network/11.weight",
        "network/11.bias",
    }
    assert all(
        same_bits({"": before[f"momentum/{conv}.weight"]}, {"": after[f"momentum/{conv}.weight"]}) for conv in CONVS
    )


def test_tock_without_sparsity_trains_as_usual() -> None:
    learner, _, _ = make()
    plain, _ = three_site_learner(epochs=EPOCHS)
    learner.train_epoch()
    plain.train_epoch()
    assert same_bits(entries(learner), entries(plain))


def test_sparsity_adds_its_sign_to_the_gradient_of_the_gates_in_a_tock() -> None:
    gradients: list[dict[str, Tensor]] = []
    for sparsity in (0.0, 0.25):
        learner, _, hook = make(sparsity=sparsity)
        of_first: dict[str, Tensor] = {}

        def record(of_first: dict[str, Tensor] = of_first, learner: Learner = learner) -> None:
            for name, parameter in learner.network.named_parameters():
                assert parameter.grad is not None
                of_first.setdefault(name, parameter.grad.clone())

        learner.state["1.weight"][:3] = -1.0
        learner.before_step.append(record)
        learner.train_epoch()
        gradients.append(of_first)
        del hook
    for name, without in gradients[0].items():
        expected = torch.zeros_like(without)
        if name in {f"{norm}.weight" for norm in NORMS}:
            expected += 0.25
        if name == "1.weight":
            expected[:3] = -0.25
        assert torch.allclose(gradients[1][name] - without, expected, atol=1e-6), name


def test_units_with_the_lowest_scores_of_the_ticks_steps_are_dropped() -> None:
    learner, filters, hook = make()
    train(learner, hook, 1)
    hook.before_epoch(1)
    totals = [torch.zeros(width) for width in WIDTHS]

    def record() -> None:
        for total, products in zip(totals, gate_products(learner, filters), strict=True):
            total += products.abs()

    learner.before_step.append(record)
    learner.train_epoch()
    assert num_dropped(learner) == 0
    hook.before_epoch(2)
    ranked = sorted((float(score), site, index) for site, of in enumerate(totals) for index, score in enumerate(of))
    lowest = {(site, index) for _, site, index in ranked[: int(0.5 / 4 * UNITS)]}
    assert len(lowest) == num_dropped(learner)
    for site, norm in enumerate(NORMS):
        assert {index for of, index in lowest if of == site} == set(
            (~learner.state[f"{norm}.weight"].bool()).nonzero().flatten().tolist()
        )


def test_nothing_returns_if_a_layer_is_of_more_use_than_before() -> None:
    learner, _, hook = make(1, allocation="utilization")
    dropped = [set[int]() for _ in WIDTHS]
    for epoch in range(1, EPOCHS):
        learner.train_epoch()
        hook.before_epoch(epoch)
        state = hook.state_dict()
        now = [{*state[site].tolist()} if site in state else set() for site in CONVS]
        assert all(earlier <= later for earlier, later in zip(dropped, now, strict=True))
        dropped = now
    assert sum(map(len, dropped)) > UNITS // 4


def test_every_tick_drops_an_equal_share_and_nothing_returns() -> None:
    learner, _, hook = make()
    counts, dropped = [], [set[int]() for _ in WIDTHS]
    while learner.epoch < EPOCHS:
        if learner.epoch:
            hook.before_epoch(learner.epoch)
        counts.append(num_dropped(learner))
        now = [{*(~learner.state[f"{norm}.weight"].bool()).nonzero().flatten().tolist()} for norm in NORMS]
        assert all(earlier <= later for earlier, later in zip(dropped, now, strict=True))
        dropped = now
        learner.train_epoch()
    assert counts == [int(0.5 * ticks / 4 * UNITS) for ticks in (0, 0, 1, 2, 2, 3, 4, 4)]
    hook.finish()
    assert num_dropped(learner) == UNITS // 2
    state = entries(learner)
    for site, filters in enumerate(dropped):
        assert not any(tensor.any() for tensor in filter_entries(state, site, sorted(filters), statistics=False))


def test_nothing_returns_if_a_tick_needs_less_than_a_unit() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")
    learner, _, hook = make(target=0.95, coupled="skip", ticks=7, finetune=0.0)
    dropped: list[set[int]] = [set() for _ in WIDTHS]
    for epoch in range(1, EPOCHS + 1):
        learner.train_epoch()
        if epoch < EPOCHS:
            hook.before_epoch(epoch)
        else:
            hook.finish()
        now = [{*(~learner.state[f"{norm}.weight"].bool()).nonzero().flatten().tolist()} for norm in NORMS]
        assert all(earlier <= later for earlier, later in zip(dropped, now, strict=True))
        dropped = now
    assert 0 < sum(map(len, dropped)) < 5


def test_dropped_units_stay_in_the_budget() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")
    learner, _, hook = make(allocation="budget", coupled="skip", target=0.5)
    dropped = [set[int]() for _ in WIDTHS]
    counts = []
    while learner.epoch < EPOCHS:
        if learner.epoch:
            hook.before_epoch(learner.epoch)
        now = [{*(~learner.state[f"{norm}.weight"].bool()).nonzero().flatten().tolist()} for norm in NORMS]
        assert all(earlier <= later for earlier, later in zip(dropped, now, strict=True))
        dropped = now
        counts.append(num_dropped(learner))
        learner.train_epoch()
    assert counts[:2] == [0, 0]
    assert 0 < counts[2] < counts[3] == counts[4] < counts[5] < counts[6] == counts[7] < UNITS


def test_last_tick_is_followed_by_its_dropping() -> None:
    learner, _, hook = make(ticks=1, finetune=0.0)
    train(learner, hook, EPOCHS)
    assert num_dropped(learner) == int(0.5 * 3 / 4 * UNITS)
    hook.finish()
    assert num_dropped(learner) == UNITS // 2


def test_every_layer_keeps_its_least_share() -> None:
    learner, _, hook = make(rate=0.9, least_share=0.4, finetune=0.0, ticks=1)
    train(learner, hook, EPOCHS)
    hook.finish()
    kept = [int(learner.state[f"{norm}.weight"].bool().sum()) for norm in NORMS]
    assert kept == [4, 5, 4]


@pytest.mark.parametrize("until", [2, 3, 4])
def test_resumed_training_ends_with_the_same_bits(until: int) -> None:
    undisturbed, _, hook = make(sparsity=0.01)
    train(undisturbed, hook, until)
    weights, state = entries(undisturbed), {name: tensor.clone() for name, tensor in hook.state_dict().items()}
    resumed, _, resumed_hook = make(network=5, sparsity=0.01)
    resumed.load_state_dict(weights)
    resumed_hook.load_state_dict(state)
    for learner, own in ((undisturbed, hook), (resumed, resumed_hook)):
        train(learner, own, EPOCHS)
        own.finish()
    assert same_bits(entries(resumed), entries(undisturbed))


def test_layers_without_a_gate_are_refused() -> None:
    learner, filters = three_site_learner()
    sites = [site.site for site in filters]
    ungated = [sites[0], sites[1].__class__(**{**vars(sites[1]), "entries": ()})]
    with pytest.raises(ModelError, match=r"^pruning\.schedule: gated .*'3' of 'three sites'"):
        plan_pruning(PruningSettings(schedule="gated"), learner.network, ungated, (3, 8, 8), "three sites")


def test_frozen_gates_are_refused() -> None:
    """All scores would be 0."""
    learner, filters = three_site_learner()
    learner.network.get_parameter("4.weight").requires_grad_(False)
    sites = [site.site for site in filters]
    with pytest.raises(ModelError, match=r"^pruning\.schedule: gated .*'4\.weight' of 'three sites'"):
        plan_pruning(PruningSettings(schedule="gated"), learner.network, sites, (3, 8, 8), "three sites")
    plan_pruning(PruningSettings(schedule="hard"), learner.network, sites, (3, 8, 8), "three sites")
