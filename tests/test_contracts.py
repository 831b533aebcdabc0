"""Contracts for all entries of the tables that users choose from; no test depends on a name."""

import random
from itertools import pairwise

import pytest
import torch
from space_makers import RULES, make_settings

from graftpop.data import DATASETS, load_splits
from graftpop.hooks.pruning import SCHEDULES as PRUNING_SCHEDULES
from graftpop.models import MODELS
from graftpop.ops.attenuation import ShareSchedule
from graftpop.ops.criteria import CRITERIA, Criterion, Filters
from graftpop.ops.topology import TOPOLOGIES, Topology
from graftpop.settings import (
    DataSettings,
    ModelSettings,
    PopulationSettings,
    PruningSettings,
    ReprSettings,
    TrainingSettings,
)
from graftpop.training.schedules import DEFAULTS, SCHEDULES, Schedule, one_cycle


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
@pytest.mark.parametrize("num_peers", [2, 3, 8, 101])
def test_topology_gives_each_peer_other_peers_as_donors(topology: Topology, num_peers: int) -> None:
    donors = topology(num_peers, num_peers - 1, random.Random(0))
    assert donors == topology(num_peers, num_peers - 1, random.Random(0))
    assert len(donors) == num_peers
    assert any(donors)
    for receiver, of_receiver in enumerate(donors):
        assert len(set(of_receiver)) == len(of_receiver)
        assert all(isinstance(donor, int) and 0 <= donor < num_peers for donor in of_receiver)
        assert receiver not in of_receiver or len(of_receiver) == num_peers  # or it is the mean of all
    assert topology.__doc__


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_criterion_gives_each_filter_a_finite_score(criterion: Criterion) -> None:
    generator = torch.Generator().manual_seed(0)
    filters = Filters(*(torch.randn(shape, generator=generator) for shape in ((8, 3, 3, 3), (8,), (8,))))
    without_norm = filters._replace(scale=None, shift=None)
    for case in (filters, without_norm, Filters(torch.zeros(8, 3, 3, 3), None, None)):
        scores = criterion(case, torch.Generator().manual_seed(1))
        assert scores.shape == (8,)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()
        assert scores.equal(criterion(case, torch.Generator().manual_seed(1)))
    assert criterion.__doc__


@pytest.mark.parametrize("schedule", [share for schedule in PRUNING_SCHEDULES.values() for share in schedule[:2]])
@pytest.mark.parametrize("epochs", [1, 2, 61, 200])
def test_pruning_schedule_is_monotone_and_in_0_1(schedule: ShareSchedule, epochs: int) -> None:
    shares = [schedule(done, epochs) for done in range(epochs + 1)]
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert shares in (sorted(shares), sorted(shares, reverse=True))
    assert schedule.__doc__


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 61, 200])
def test_schedule_falls_from_one_and_never_below_zero(schedule: Schedule, epochs: int) -> None:
    factors = [schedule(epochs * done / 1000, epochs, DEFAULTS) for done in range(1001)]
    assert factors == [schedule(epochs * done / 1000, epochs, DEFAULTS) for done in range(1001)]
    top = 300 if schedule is one_cycle else 0  # the only one that rises first, for 30 % of the epochs
    assert factors[top] == 1.0
    assert all(isinstance(factor, float) and 0.0 <= factor <= 1.0 for factor in factors)
    assert all(later <= earlier for earlier, later in pairwise(factors[top:]))
    assert all(later >= earlier for earlier, later in pairwise(factors[: top + 1]))
    assert schedule.__doc__


def test_digits_load_as_three_splits() -> None:
    splits = load_splits(DataSettings(name="digits", max_train_images=100), seed=0)
    assert [images.num_images for images in (splits.train, splits.val, splits.test)] == [90, 10, 359]
    assert splits.image_shape == (3, 8, 8)
    assert len(splits.class_names) == 10


def test_defaults_are_in_their_tables() -> None:
    assert DataSettings().name in DATASETS
    assert ModelSettings().name in MODELS
    assert TrainingSettings().schedule in SCHEDULES
    assert PopulationSettings().topology == "auto"
    assert {make_settings({rule: {}}).topology for rule in RULES} <= TOPOLOGIES.keys()
    assert {PruningSettings().method.criterion, ReprSettings().criterion} <= set(CRITERIA)
    assert PruningSettings().method.schedule in PRUNING_SCHEDULES
