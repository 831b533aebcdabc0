"""No line assumes the CPU: everything that handles tensors runs on a CUDA card, with the CPU's results.

Where there is no card, two imitations take its place. `StandInCard` has values, so whole peers run on it. Torch's fake
tensors have none; they apply torch's own rules on devices to everything that reads no value. On a card, its results may
differ from the CPU's by rounding.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from network_makers import few_digits, trained_looking
from safetensors.torch import load as tensors_from_bytes
from space_makers import Tree, make_settings
from stand_in_card import CUDA, StandInCard
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import graftpop.ops
from graftpop.data.images import Images, MemoryImages
from graftpop.exchange.build import make_rule
from graftpop.exchange.grafting import Grafting, site_measures
from graftpop.exchange.rule import ExchangeContext
from graftpop.exchange.snapshots import copy_from_, take_snapshot
from graftpop.exchange.state_dicts import graft_state_dicts
from graftpop.hooks.build import make_hooks
from graftpop.losses.distillation import distillation_term
from graftpop.losses.mutual import mutual_term
from graftpop.ops import (
    allocation,
    alpha,
    attenuation,
    diagnostics,
    distillation,
    entropy,
    games,
    graft,
    importance,
    matching,
    orthogonal,
    released,
    retrieval,
    scions,
    selection,
    soups,
    triplet,
)
from graftpop.ops.criteria import CRITERIA, Filters
from graftpop.peer.peer import Peer
from graftpop.peer.sites import pruning_plan_of
from graftpop.population import LocalGroup, Population
from graftpop.settings import Settings
from graftpop.sites import Site, find_sites
from graftpop.tasks.classification import Classification
from graftpop.training.cuda import set_up_cuda
from graftpop.training.filters import mask_dropped, site_filters
from graftpop.training.flat_state import FlatState
from graftpop.training.learner import Learner
from graftpop.training.optimizers import TorchOptimizer
from graftpop.training.snapshot import Snapshot

CPU = torch.device("cpu")
HAS_CARD = torch.cuda.is_available()
CARD = nullcontext() if HAS_CARD else StandInCard()
Place = Callable[[Tensor], Tensor]
Call = Callable[[Place], object]


@pytest.fixture
def card() -> Iterator[torch.device]:
    set_up_cuda(deterministic=False)
    with CARD:
        yield CUDA


@pytest.fixture
def fake_card() -> Iterator[torch.device]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield CUDA


def tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


def is_on(device: torch.device, value: object) -> bool:
    return all(tensor.device == device for tensor in tensors_in(value))


def agree(found: object, expected: object, tolerance: float = 1e-4) -> bool:
    """Return whether results equal the CPU's: to the bit on the stand-in, up to rounding on a card."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        found, expected = found.detach().cpu(), expected.detach()
        if not HAS_CARD or not expected.is_floating_point():
            return torch.equal(found, expected)
        return bool((found - expected).norm() <= tolerance * expected.norm())
    if isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        return all(agree(one, other, tolerance) for one, other in zip(found, expected, strict=True))
    if isinstance(expected, Mapping):
        assert isinstance(found, Mapping)
        return agree([found[key] for key in expected], list(expected.values()), tolerance)
    return found == pytest.approx(expected, rel=tolerance if HAS_CARD else 0, abs=1e-6 if HAS_CARD else 0, nan_ok=True)


# --- ops ---


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attenuated(on: Place) -> Tensor:
    weight = on(drawn(6, 8))
    attenuation.attenuate_(weight, on(torch.tensor([1, 4])), 0.5)
    return weight


def criterion_call(name: str) -> Call:
    def call(on: Place) -> Tensor:
        filters = Filters(on(drawn(6, 2, 3)), on(drawn(6, seed=1)), on(drawn(6, seed=2)))
        return CRITERIA[name](filters, torch.Generator().manual_seed(0))

    return call


def game_value(on: Place) -> games.Value:
    weights = on(drawn(4))
    return lambda coalitions: (on(coalitions).float() @ weights).exp()


RETRIEVED = torch.tensor([[identity, camera, 3] for identity in range(2) for camera in range(3)])
"""Identity, camera and role of six images."""

OPS: dict[str, Call] = {
    "allocation.budget": lambda on: allocation.budget(
        [on(drawn(6)), on(drawn(5, seed=1))], lambda counts: 1 - counts.sum() / 11, 0.5, [1, 1]
    ),
    "allocation.cross_layer": lambda on: allocation.cross_layer(
        [on(drawn(6, 8)), on(drawn(5, 3, seed=1))], [1.0, 1.1], 5.0, 0.5, [1, 1]
    ),
    "allocation.global_ranking": lambda on: allocation.global_ranking(
        [on(drawn(6)), on(drawn(5, seed=1))], 0.5, [1, 1]
    ),
    "allocation.normalized": lambda on: allocation.normalized(on(drawn(6))),
    "alpha.adaptive_alpha": lambda on: alpha.adaptive_alpha(on(drawn(5)), on(drawn(5, seed=1)), c=1.0),
    "alpha.fixed_alpha": lambda on: alpha.fixed_alpha(on(drawn(5)), 0.3),
    "attenuation.attenuate_": attenuated,
    **{f"criteria.{name}": criterion_call(name) for name in CRITERIA},
    "diagnostics.density": lambda on: diagnostics.density([on(drawn(6, 8))], [on(drawn(6) > 0)]),
    "diagnostics.disagreement": lambda on: diagnostics.disagreement(on(torch.arange(5)), on(torch.ones(5).long())),
    "diagnostics.distance": lambda on: diagnostics.distance(on(drawn(9)), on(drawn(9, seed=1))),
    "diagnostics.network_information": lambda on: diagnostics.network_information(on(drawn(9))),
    "distillation.distillation_loss": lambda on: distillation.distillation_loss(
        on(drawn(4, 3)), on(drawn(4, 3, seed=1).softmax(1)), 2.0
    ),
    "distillation.mean_probabilities": lambda on: distillation.mean_probabilities(
        [on(drawn(4, 3)), on(drawn(4, 3, seed=1))], 2.0
    ),
    "distillation.mutual_loss": lambda on: [
        distillation.mutual_loss(on(drawn(4, 3)), on(drawn(others, 4, 3, seed=1)), 2.0) for others in (0, 2)
    ],
    "entropy.entropy": lambda on: entropy.entropy(on(drawn(6, 8))),
    "entropy.filter_entropies": lambda on: entropy.filter_entropies(on(drawn(6, 8))),
    "entropy.layer_entropies": lambda on: entropy.layer_entropies(
        [on(drawn(6, 8)), on(drawn(5, seed=1)), on(torch.ones(4))]
    ),
    "games.interactions_exact": lambda on: games.interactions_exact(game_value(on), 4),
    "games.mean_interaction": lambda on: games.mean_interaction(game_value(on), 4, 3, torch.Generator().manual_seed(0)),
    "games.shapley": lambda on: [
        games.shapley(game_value(on), 4, orders, torch.Generator().manual_seed(0)) for orders in (2, 9)
    ],
    "games.shapley_exact": lambda on: games.shapley_exact(game_value(on), 4),
    "games.shapley_sampled": lambda on: games.shapley_sampled(game_value(on), 4, 3, torch.Generator().manual_seed(0)),
    "graft.blend": lambda on: graft.blend(on(drawn(6, 8)), on(drawn(6, 8, seed=1)), on(drawn(6, 1).sigmoid())),
    "importance.filter_l1_norms": lambda on: importance.filter_l1_norms(on(drawn(6, 8))),
    "importance.num_invalid_filters": lambda on: importance.num_invalid_filters(on(drawn(6, 8)), 5.0),
    "matching.best_matching": lambda on: matching.best_matching(on(drawn(6, 6))),
    "orthogonal.orthogonal_filters": lambda on: orthogonal.orthogonal_filters(
        on(drawn(2, 8)), on(drawn(4, 8, seed=1)), torch.Generator().manual_seed(0)
    ),
    "orthogonal.overlaps": lambda on: orthogonal.overlaps(on(drawn(6, 8))),
    "released.released_alpha": lambda on: released.released_alpha(on(drawn(5)), on(drawn(5, seed=1)), A=0.4, c=1.0),
    "released.released_blend": lambda on: released.released_blend(
        on(drawn(6)), on(drawn(6, seed=1)), on(torch.tensor(0.3))
    ),
    "released.released_entropies": lambda on: released.released_entropies([on(drawn(6, 8)), on(torch.ones(4))]),
    "released.released_integer_blend": lambda on: released.released_integer_blend(
        on(torch.tensor(7)), on(torch.tensor(4)), on(torch.tensor(0.3))
    ),
    "retrieval.has_match": lambda on: retrieval.has_match(on(RETRIEVED)).tolist(),
    "retrieval.retrieval_scores": lambda on: list(retrieval.retrieval_scores(on(drawn(6, 3)), on(RETRIEVED)).values()),
    "scions.internal_scions": lambda on: scions.internal_scions(on(drawn(6, 8)), 6.0),
    "scions.noise_scions": lambda on: scions.noise_scions(on(drawn(6, 8)), 6.0, 0.1, torch.Generator().manual_seed(0)),
    "selection.k_reciprocal": lambda on: selection.k_reciprocal(on(drawn(6, 8)), 3),
    "selection.lowest": lambda on: selection.lowest(on(drawn(6)), 3),
    "soups.greedy_soup": lambda on: soups.greedy_soup([on(drawn(9)), on(drawn(9, seed=1))], lambda weights: 0.5),
    "soups.uniform_soup": lambda on: soups.uniform_soup([on(drawn(9)), on(drawn(9, seed=1))]),
    "triplet.batch_hard_triplet_loss": lambda on: triplet.batch_hard_triplet_loss(
        on(drawn(6, 3)), on(torch.arange(6) // 2), 0.3
    ),
}
READ_VALUES = {
    *(f"allocation.{name}" for name in ("budget", "cross_layer", "global_ranking")),  # numbers of units
    *(f"retrieval.{name}" for name in ("has_match", "retrieval_scores")),  # sorted by numpy
    *(f"diagnostics.{name}" for name in ("density", "disagreement", "distance", "network_information")),  # numbers
    "orthogonal.orthogonal_filters",  # a rank
    "scions.internal_scions",  # a number of filters
}


def test_every_function_of_ops_with_tensors_is_called() -> None:
    public = {
        f"{module.name}.{name}"
        for module in pkgutil.iter_modules(graftpop.ops.__path__)
        for name, member in inspect.getmembers(
            importlib.import_module(f"graftpop.ops.{module.name}"), inspect.isfunction
        )
        if member.__module__ == f"graftpop.ops.{module.name}" and not name.startswith("_")
        if any("Tensor" in str(kind) or "Filters" in str(kind) for kind in member.__annotations__.values())
    }
    assert public == OPS.keys()


@pytest.mark.parametrize("name", OPS)
def test_ops_stay_on_the_card_with_the_cpus_values(name: str, card: torch.device) -> None:
    result = OPS[name](lambda tensor: tensor.to(card))
    assert is_on(card, result)
    assert agree(result, OPS[name](lambda tensor: tensor))


@pytest.mark.parametrize("name", OPS)
def test_ops_stay_on_a_fake_card(name: str, fake_card: torch.device) -> None:
    def call() -> object:
        return OPS[name](lambda tensor: tensor.to(fake_card))

    if name == "matching.best_matching":  # by scipy
        with pytest.raises(RuntimeError, match="numpy"):
            call()
    elif name in READ_VALUES:
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            call()
    else:
        assert tensors_in(result := call())
        assert is_on(fake_card, result)


# --- the parts of a peer that read no value, on fake tensors ---


def settings_of(*trees: Tree, **sections: Any) -> Settings:
    small = {
        "data": {"max_train_images": 60},
        "training": {"epochs": 4, "batch_size": 30},
        "population": {"num_peers": 2},
    }
    return make_settings(small, *trees, sections)


Parts = tuple[Learner, list[Site], MemoryImages]


def learner_on(device: torch.device, network: nn.Module, images: Images, **training: Any) -> Learner:
    settings = settings_of(training=training).training
    return Learner(network, images, settings, Classification(), lr=lambda _: 0.1, seed=0, peer=0, device=device)


@pytest.fixture
def fake_parts() -> Iterator[Parts]:
    network = trained_looking("python:network_makers.TwoSites", 0)
    sites, images = find_sites(network, (3, 8, 8), "network"), few_digits().train
    assert isinstance(images, MemoryImages)
    # `normalize` caches tensors by recipe and device, and no fake one may come to another test
    images = dataclasses.replace(images, recipe=dataclasses.replace(images.recipe, mean=(0.1, 0.2, 0.3)))
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield learner_on(CUDA, network, images), sites, images


def snapshot_of(learner: Learner) -> Snapshot:
    weights = np.ones(len(learner.state.buffer), np.float32)
    return Snapshot(1, weights, np.zeros(2, np.int64), np.zeros(2), np.empty(0, np.int64))


def test_evaluation_and_loss_terms_run_on_a_fake_card(fake_parts: Parts) -> None:
    learner, _, images = fake_parts
    assert is_on(CPU, learner.evaluate(images))
    pixels, labels = next(images.training_batches(8, 0, CUDA))
    logits = learner.network(pixels)
    teach = distillation_term(
        [learner.network], lambda network, images: network(images), temperature=2.0, weight=1.0, dtype=torch.float32
    )
    learn = mutual_term(0, temperature=1.0, weight=1.0)
    assert is_on(CUDA, [pixels, labels, logits, teach(logits, pixels), learn(logits, torch.stack([logits, logits]))])


def test_filters_and_masks_run_on_a_fake_card(fake_parts: Parts) -> None:
    learner, sites, _ = fake_parts
    filters = site_filters(learner, sites)
    some, others = torch.tensor([1, 2], device=CUDA), torch.tensor([3, 4], device=CUDA)
    for site in filters:
        site.drop_(some)
        site.revive_(some, site.weight[:2].cpu())
        site.copy_(some, others)
        assert is_on(CUDA, [site.weight, *(tensor for _, tensor in site.entries)])
    mask_dropped(learner, filters, [some for _ in filters])
    copy_from_(learner.state, snapshot_of(learner))
    assert is_on(CUDA, learner.network.state_dict())


@pytest.mark.parametrize(("criterion", "level"), [(name, level) for name in CRITERIA for level in ("layer", "filter")])
def test_alpha_and_blend_run_on_a_fake_card(fake_parts: Parts, criterion: str, level: str) -> None:
    learner, sites, _ = fake_parts
    settings = settings_of(graft={"criterion": criterion, "level": level})
    measures = site_measures(learner.state, sites, settings.graft)
    rule = make_rule(ExchangeContext(0, learner.state, sites, measures, settings))
    assert isinstance(rule, Grafting)
    theirs = snapshot_of(learner).weights_on(CUDA)
    alphas = rule.alpha(measures.entropies_in(theirs), theirs)
    rule.graft_(alphas, theirs)
    assert is_on(CUDA, [alphas, theirs, measures.entropies, measures.num_invalid_filters, rule.weights])


def test_measures_without_sites_are_on_the_card(fake_parts: Parts) -> None:
    learner, *_ = fake_parts
    measures = site_measures(learner.state, [], None)
    assert is_on(CUDA, [measures.entropies, measures.num_invalid_filters])


@pytest.mark.parametrize(
    "method",
    [
        {"graft": {"source": "noise", "threshold": 3.0}},
        {"pruning": {"criterion": "random"}},
        {"pruning": {"preset": "hard"}},
        {"swa": {"start": 0.3}},
    ],
    ids=str,
)
def test_hooks_run_on_a_fake_card(fake_parts: Parts, method: Tree) -> None:
    learner, sites, _ = fake_parts
    settings = settings_of(method)
    plan = pruning_plan_of(settings, learner.network, sites, (3, 8, 8))
    (hook,) = make_hooks(settings, learner, site_filters(learner, sites), 0, plan)
    for epoch in (1, 2, 3):
        hook.before_epoch(epoch)
    state = {name: tensor for name, tensor in hook.state_dict().items() if name != "num_averaged"}
    assert is_on(CUDA, [learner.state.buffer, state])


# --- whole peers ---

PEERS: dict[str, Tree] = {
    "filter level in steps": {"graft": {"c": 1.0, "level": "filter"}, "population": {"exchange_every": 2}},
    "as released": {"graft": {"c": 1.0, "compat": "released_code"}},
    "papa, averaged weights, soup": {"papa": {}, "swa": {"start": 0.3}, "population": {"output": "greedy_soup"}},
    "alignment": {"graft": {"c": 1.0}, "align": {}, "population": {"num_peers": 3, "topology": "mean"}},
    "papa in steps": {"papa": {}, "population": {"exchange_every": 2}},
    "user-defined rule": {"exchange": "python:user_parts.Pull"},
    "user-defined alpha and criterion": {
        "graft": {"alpha": "python:user_parts.keep_the_better", "criterion": "python:user_parts.spread"},
        "population": {"num_peers": 3, "topology": "all"},
    },
    "noise": {"graft": {"source": "noise", "threshold": 4.0}},
    "internal scions": {"graft": {"source": "internal", "threshold": 4.0}},
    "mutual learning": {"mutual": {}},
    "distillation and codistillation": {
        "distillation": {"teachers": [{"model": "python:network_makers.TwoSites", "epochs": 1}]},
        "mutual": {"exchange": "snapshots"},
    },
    "repr": {
        "repr": {"S1": 2, "S2": 1, "N": 1},
        "graft": {"c": 1.0},
        "diagnostics": {"pairs": True, "thresholds": [5.0]},
    },
    "pruning": {"pruning": {"criterion": "random", "remove": False}},
    "hard pruning": {"pruning": {"preset": "hard", "rate": 0.3, "remove": False}},
    "augmentation": {
        "augmentation": {"policy": "randaugment", "color_jitter": 0.4, "erasing": 0.3, "mixup": 0.2, "cutmix": 1.0}
    },
}


def outcome(settings: Settings, device: str) -> object:
    """Return records and states of a population that is killed after half of its rounds."""
    found: list[object] = []
    states: dict[int, bytes] = {}
    teachers: Any = None
    for first_round in (0, 2):
        population = Population(
            LocalGroup(partial(Peer, settings, device=device), settings.population.num_peers), settings
        )
        if states:
            population.load(states, first_round, teachers)
        for _ in range(2):
            done = population.step()
            found.append([(row["train_loss"], row["val_loss"], row["mean_entropy_nats"]) for row in done.peers])
            found.append([row["value"] for row in done.diagnostics])
        states, teachers = dict(population.save()), population.save_teachers()
        found.append([dict(sorted(tensors_from_bytes(state).items())) for state in states.values()])
    output = population.finish(done)
    found.append([value for value in output.values() if isinstance(value, int | float)])
    return found


@pytest.mark.parametrize("method", PEERS.values(), ids=PEERS)
def test_peers_train_exchange_and_resume_on_the_card(method: Tree, card: torch.device) -> None:
    settings = settings_of(method)
    expected = outcome(settings, "cpu")
    assert agree(outcome(settings, "cuda"), expected, tolerance=0.1)


# --- how often the host waits for the card ---


class Reads(TorchDispatchMode):
    """Lists the operations whose result, or its shape, depends on values: on a card the host waits for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is torch.ops.aten.index.Tensor and any(
            one is not None and one.dtype is torch.bool for one in args[1]
        )
        if by_mask or torch.Tag.data_dependent_output in func.tags or func is torch.ops.aten.nonzero.default:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [{}, {"accumulate": 2, "clip_grad_norm": 1.0}], ids=["plain", "clipped"])
def test_training_reads_two_values_per_epoch(training: Tree) -> None:
    network = trained_looking("python:network_makers.TwoSites", 0)
    learner = learner_on(CPU, network, few_digits().train, batch_size=20, **training)
    learner.loss_terms.append(lambda logits, inputs: logits.square().mean())
    learner.mask_gradients({"conv1.weight": (drawn(8) > 0).view(-1, 1, 1, 1)})
    with Reads() as reads:
        learner.train_epoch()
    assert reads.found == ["aten::_local_scalar_dense"] * 2  # the loss and the number of correct images


@contextmanager
def waits() -> Iterator[list[str]]:
    """Yield a list that receives one entry per time that the host waits for the card in the block."""
    found: list[str] = []
    if isinstance(CARD, StandInCard):
        CARD.waits.clear()
        yield found
        found += CARD.waits
        return
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    torch.cuda.set_sync_debug_mode("default")
    found += [str(one.message) for one in caught if "synchroniz" in str(one.message)]


STEPS: dict[str, tuple[Tree, int]] = {
    "sgd": ({}, 0),
    "all but policies": (
        {
            "training": {"accumulate": 2, "optimizer": {"name": "adamw"}},
            "augmentation": {"color_jitter": 0.4, "erasing": 0.3, "mixup": 0.2, "cutmix": 1.0},
            "ema": {},
            "diagnostics": {"thresholds": [1.0, 5.0]},
        },
        0,
    ),
    "averaged gradients": ({"population": {"sync_until": 1.0}}, 2),
    "logits": ({"mutual": {}}, 2),
    "weights": ({"graft": {}, "population": {"exchange_every": 1}}, 5),
}
"""Settings, and how often the host waits in a further step of a peer: arrays of all peers pass through it."""


@pytest.mark.parametrize(("method", "per_step"), STEPS.values(), ids=STEPS)
def test_steps_do_not_wait_for_the_card(method: Tree, per_step: int, card: torch.device) -> None:
    found = []
    for batch_size in (27, 9):  # 2 and 6 batches
        settings = settings_of(method, {"training": {"batch_size": batch_size}})
        group = LocalGroup(partial(Peer, settings, device="cuda"), 2)
        list(group.run("train", {0: (1,), 1: (1,)}, 60.0))  # fills caches
        with waits() as found_now:
            list(group.run("train", {0: (1,), 1: (1,)}, 60.0))
        found.append(len(found_now))
    few, many = found
    assert many - few == 2 * 4 * per_step


EXCHANGES: dict[str, tuple[Tree, list[str]]] = {
    "graft": ({"graft": {}}, ["to the card", "to the card", "tolist"]),  # weights and entropies; all columns
    "of nine sites": ({"graft": {}, "model": {"name": "resnet8"}}, ["to the card", "to the card", "tolist"]),
    "filters by l1": ({"graft": {"level": "filter", "criterion": "l1"}}, ["to the card", "to the card", "tolist"]),
    "papa": ({"papa": {}}, ["to the card", "item"]),  # a figure
    "wash": ({"wash": {}}, ["to the card", "to the card"]),  # weights and places
    "sparta": ({"sparta": {}}, ["to the card", "to the card"]),
    "outer": ({"outer": {}}, ["to the card", "item"]),
}
"""Settings, and the times that the host waits while a peer receives a donor, whatever the number of sites."""


@pytest.mark.skipif(HAS_CARD, reason="a card also reports the waits of torch's own functions")
@pytest.mark.parametrize(("method", "expected"), EXCHANGES.values(), ids=EXCHANGES)
def test_number_of_waits_in_an_exchange(method: Tree, expected: list[str], card: torch.device) -> None:
    settings = settings_of(method, diagnostics={"thresholds": [1.0, 5.0]})
    group = LocalGroup(partial(Peer, settings, device="cuda"), 2)
    list(group.run("train", {0: (1,), 1: (1,)}, 60.0))
    with waits() as in_training:
        list(group.run("train", {0: (1,)}, 60.0))
    with waits() as in_publishing:
        published = dict(group.run("publish", {0: (), 1: ()}, 60.0, result_mode="ref"))
    with waits() as in_exchange:
        list(group.run("exchange", {0: (published[1],)}, 60.0))
    with waits() as in_saving:
        list(group.run("save", {0: ()}, 60.0))
    assert (in_publishing, in_exchange, in_saving) == ([], expected, [])  # `to_host` waits once, which is not listed
    assert len(in_training) == 13


@pytest.mark.parametrize(("criterion", "level"), [(name, level) for name in CRITERIA for level in ("layer", "filter")])
def test_exchange_by_every_criterion_on_the_card(criterion: str, level: str, card: torch.device) -> None:
    settings = settings_of(graft={"c": 0.1, "criterion": criterion, "level": level})

    def grafted(device: torch.device) -> object:
        rules = []
        for peer in range(3):
            network = trained_looking("python:network_makers.TwoSites", peer)
            sites = find_sites(network, (3, 8, 8), "network")
            state = FlatState(network.to(device))
            rule = make_rule(ExchangeContext(peer, state, sites, site_measures(state, sites, settings.graft), settings))
            assert rule is not None
            rules.append(rule)
        receiver, *donors = rules
        none = torch.empty(0, dtype=torch.int64, device=device)
        receiver.receive(
            [
                take_snapshot(
                    rule.context.state, rule.context.peer, rule.context.measures.entropies, none, rule.publish()
                )
                for rule in donors
            ]
        )
        columns = receiver.columns()
        assert columns is not None
        assert receiver.weights.device.type == device.type
        return [receiver.weights, columns["alpha"], columns["receiver_entropy_nats"], columns["num_invalid_after"]]

    assert agree(grafted(card), grafted(CPU), tolerance=1e-3)


def test_masks_from_the_cpu_act_on_the_card(card: torch.device) -> None:
    def trained(device: torch.device) -> Tensor:
        learner = learner_on(device, trained_looking("python:network_makers.TwoSites", 0), few_digits().val)
        learner.mask_gradients({"conv1.weight": (drawn(8) > 0).view(-1, 1, 1, 1)})
        learner.train_epoch()
        return learner.state.buffer

    assert agree(trained(card), trained(CPU), tolerance=1e-2)


def test_state_dicts_are_grafted_on_the_card(card: torch.device) -> None:
    def grafted(device: torch.device) -> Mapping[str, Tensor]:
        receiver, donor = (trained_looking("python:network_makers.TwoSites", seed).to(device) for seed in (1, 2))
        return graft_state_dicts(receiver.state_dict(), donor.state_dict(), c=1.0)

    found = grafted(card)
    assert is_on(card, found)
    assert agree(found, grafted(CPU), tolerance=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_torch_optimizer_resumes_on_the_card(fused: bool, card: torch.device) -> None:
    def trained(device: torch.device) -> Tensor:
        parameter = nn.Parameter(drawn(8).to(device))
        state: Mapping[str, Tensor] = {}
        for _ in range(2):
            optimizer = TorchOptimizer({"w": parameter}, partial(torch.optim.AdamW, lr=0.1, fused=fused))
            optimizer.load_state_dict(state)
            for _ in range(2):
                optimizer.zero_grad()
                parameter.square().sum().backward()
                optimizer.step()
            state = {name: tensor.cpu() for name, tensor in optimizer.state_dict().items()}
        return parameter

    assert agree(trained(card), trained(CPU))


def test_stand_in_refuses_tensors_of_two_devices() -> None:
    with StandInCard():
        weight = torch.ones(3, device="cuda")
        assert weight.device == weight[1:].to(weight).device == CUDA
        assert weight.cpu().device == CPU
        mixed: list[Callable[[], Tensor]] = [
            lambda: weight + torch.ones(3),
            lambda: weight[torch.tensor([0])],
            lambda: torch.cat([weight, torch.ones(1)]),
        ]
        for call in mixed:
            with pytest.raises(RuntimeError):
                call()
        with pytest.raises(TypeError):
            weight.numpy()
