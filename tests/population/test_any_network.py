"""A population that exchanges no weights takes a network without sites; other methods name what they need."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import network_kinds
import pyarrow
import pytest
import torch
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from space_makers import SMALL, make_settings, merged
from torch import nn
from torch.utils.data import TensorDataset

import graftpop
from graftpop.cluster.metrics import peer_metrics
from graftpop.cluster.trial_report import summarize
from graftpop.errors import ModelError
from graftpop.metrics import ACCURACY
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.run.schemas import schemas
from graftpop.settings import Settings
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models

Tree = Mapping[str, Any]

WITHOUT_SITES: dict[str, Tree] = {
    "ensemble": {"population": {"output": "ensemble"}},
    "mutual": {"mutual": {}},
    "codistillation": {"mutual": {"exchange": "snapshots"}},
    "alpha 1": {"graft": {"alpha": 1.0}},
    "alpha 1 by filter": {"graft": {"alpha": 1.0, "level": "filter", "criterion": "l1"}},
    "alpha 1 over all": {"graft": {"alpha": 1.0}, "population": {"topology": "all"}},
    "alpha 1 async": {"graft": {"alpha": 1.0}, "population": {"mode": "async"}},
    "soup": {"population": {"output": "uniform_soup"}},
    "averaging over epochs": {"swa": {"start": 0.0}},
    "pairs": {"diagnostics": {"pairs": True}},
    "alpha 1 of no conv_bn": {"graft": {"alpha": 1.0, "sites": "conv_bn"}},
}
WITH_SITES: dict[str, Tree] = {
    "graft": {"graft": {}},
    "graft ": {"graft": {"alpha": 0.5}},
    "graft  ": {"graft": {"source": "noise", "alpha": 1.0}},
    "repr": {"training": {"epochs": 3}, "repr": {"S1": 1, "S2": 1, "N": 1}},
    "pruning": {"pruning": {"remove": False}},
    "diagnostics.thresholds": {"diagnostics": {"thresholds": [0.1]}},
    "diagnostics.density_of": {"diagnostics": {"density_of": "absent"}},
}
CONV_BN: dict[str, Tree] = {
    "graft": {"graft": {"sites": "conv_bn"}},
    "graft ": {"graft": {"sites": "conv_bn", "source": "noise"}},
    "repr": {
        "training": {"epochs": 3},
        "repr": {"S1": 1, "S2": 1, "N": 1},
        "graft": {"sites": "conv_bn", "alpha": 1.0},
    },
}


def settings_of(method: Tree, network: str | None = None) -> Settings:
    """Return settings for a network without sites, if none is named: under `conv_bn`, one without BatchNorm."""
    without_sites = "ConvNorm" if "sites" in method.get("graft", {}) else "Vectors"
    return make_settings(method, model={"name": f"python:network_kinds.{network or without_sites}"})


def population_of(settings: Settings) -> Population:
    return Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)


@pytest.mark.parametrize("method", WITHOUT_SITES.values(), ids=WITHOUT_SITES)
def test_network_without_sites_trains_and_resumes_to_the_bit(method: Tree) -> None:
    settings = settings_of(method)
    whole, resumed = population_of(settings), population_of(settings)
    first = whole.step()
    resumed.load(dict(whole.save()), 1, {})
    last, again = whole.step(), resumed.step()
    states = [{peer: tensors_from_bytes(state) for peer, state in population.save()} for population in (whole, resumed)]
    assert all(same_bits(states[0][peer], states[1][peer]) for peer in range(3))
    assert whole.finish(last) == resumed.finish(again)
    for row in (*first.peers, *last.peers):
        assert (row["num_invalid_filters"], row["mean_entropy_nats"]) == (None, None)
    assert not first.grafts.get("site")
    assert {row["diagnostic"] for row in first.diagnostics} <= {"distance", "disagreement"}


def test_transformer_trains_in_a_population() -> None:
    settings = settings_of({"mutual": {}, "training": {"epochs": 4}}, "Attention")
    population = population_of(settings)
    losses = [[row["train_loss"] for row in population.step().peers] for _ in range(settings.num_rounds)]
    assert all(last < first for first, last in zip(losses[0], losses[-1], strict=True))


def test_alpha_1_keeps_the_weights_of_a_network_without_sites() -> None:
    kept, apart = (population_of(settings_of(method)) for method in ({"graft": {"alpha": 1.0}}, {}))
    for population in (kept, apart):
        population.step()
        population.step()
    for state, expected in zip(dict(kept.save()).values(), dict(apart.save()).values(), strict=True):
        assert same_bits(tensors_from_bytes(state), tensors_from_bytes(expected))


def test_tables_and_reports_leave_the_columns_of_sites_empty() -> None:
    done = population_of(settings_of({"graft": {"alpha": 1.0}})).step()
    rounds = pyarrow.Table.from_pylist([dict(row) for row in done.peers], schemas([ACCURACY])["rounds"])
    assert rounds["mean_entropy_nats"].null_count == rounds["num_invalid_filters"].null_count == 3
    assert "num_invalid_filters" not in summarize(done, {}, [[0, 1, 2]], [ACCURACY])
    assert "entropy" not in peer_metrics(done, {}, [ACCURACY])


@pytest.mark.parametrize(
    ("kind", "key", "method", "parts"),
    [
        *(("Vectors", key.strip(), method, ["two axes"]) for key, method in WITH_SITES.items()),
        *(
            ("ConvNorm", key.strip(), method, ["BatchNorm", "graft.sites: conv_bn", "graft.sites: all"])
            for key, method in CONV_BN.items()
        ),
    ],
)
def test_method_that_needs_sites_is_named(kind: str, key: str, method: Tree, parts: list[str]) -> None:
    model = {"name": f"python:network_kinds.{kind}"}
    space = parse_space(merged(SMALL, method, {"model": model}))
    images = TensorDataset(torch.zeros(20, 3, 8, 8), torch.arange(20) % 10)
    sections = merged({"population": {"num_peers": 2}, "training": {"epochs": 2}}, method)
    for refused in (
        lambda: check_data_and_models(space),
        lambda: Peer(space.resolve(), 0),
        lambda: graftpop.Population(getattr(network_kinds, kind), images, images, classes="0123456789", **sections),
    ):
        with pytest.raises(ModelError) as caught:
            refused()
        message = str(caught.value)
        assert message.startswith(f"model.name: 'python:network_kinds.{kind}' ")
        assert [part for part in (*parts, f"remove {key}") if part not in message] == []
        assert "\n" not in message


def test_one_trial_of_a_search_that_needs_sites_is_enough() -> None:
    tree = merged(SMALL, {"model": {"name": "python:network_kinds.Vectors"}})
    check_data_and_models(parse_space({**tree, "graft": {"alpha": 1.0}}))
    with pytest.raises(ModelError, match="two axes"):
        check_data_and_models(parse_space({**tree, "graft": {"alpha": {"choice": [1.0, "adaptive"]}}}))


def test_population_of_a_user_takes_a_plain_perceptron() -> None:
    generator = torch.Generator().manual_seed(0)
    images = TensorDataset(torch.rand(40, 3, 8, 8, generator=generator), torch.arange(40) % 10)
    population = graftpop.Population(
        lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)),
        images,
        images,
        classes="0123456789",
        training={"epochs": 2},
        mutual={},
    )
    assert len(list(population.run())) == 2
    assert population.network()(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
