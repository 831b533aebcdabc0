"""What every entry of a table that users choose from must keep to. No test looks at a name."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from graftpop.learner.data import DATASETS, load_splits
from graftpop.learner.models import MODELS
from graftpop.learner.schedules import SCHEDULES, Schedule
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import DataSettings, ModelSettings, PopulationSettings, TrainingSettings


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
@pytest.mark.parametrize("num_peers", [2, 3, 8, 101])
def test_a_topology_gives_each_peer_one_other_as_donor(
    topology: Callable[[int], tuple[int, ...]], num_peers: int
) -> None:
    donors = topology(num_peers)
    assert donors == topology(num_peers)
    assert len(donors) == num_peers
    assert all(isinstance(donor, int) and 0 <= donor < num_peers for donor in donors)
    assert all(donor != receiver for receiver, donor in enumerate(donors))
    assert topology.__doc__


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 61, 200])
def test_a_schedule_starts_at_one_and_never_rises_or_falls_below_zero(schedule: Schedule, epochs: int) -> None:
    factors = [schedule(epochs * done / 1000, epochs) for done in range(1001)]
    assert factors == [schedule(epochs * done / 1000, epochs) for done in range(1001)]
    assert factors[0] == 1.0
    assert all(isinstance(factor, float) and 0.0 <= factor <= 1.0 for factor in factors)
    assert all(later <= earlier for earlier, later in pairwise(factors))
    assert schedule.__doc__


def test_the_digits_load_as_three_splits() -> None:
    splits = load_splits(DataSettings(name="digits", limit=100), seed=0)
    assert [images.num_images for images in (splits.train, splits.val, splits.test)] == [90, 10, 359]
    assert splits.image_shape == (3, 8, 8)
    assert len(splits.class_names) == 10


def test_defaults_stand_in_their_tables() -> None:
    assert DataSettings().name in DATASETS
    assert ModelSettings().name in MODELS
    assert TrainingSettings().schedule in SCHEDULES
    assert PopulationSettings().topology in TOPOLOGIES
