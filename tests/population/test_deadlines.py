"""Timeouts of calls follow the median round, within a minute and the settings' maximum."""

import pytest

from graftpop.population.deadlines import Deadlines
from graftpop.settings import PopulationSettings


def timeout_s(*rounds_s: float, deadline_factor: float = 10.0, round_timeout_s: float = 7200.0) -> float:
    deadlines = Deadlines(PopulationSettings(deadline_factor=deadline_factor, round_timeout_s=round_timeout_s))
    for round_s in rounds_s:
        deadlines.add(round_s)
    return deadlines.timeout_s


def test_timeout_before_the_first_round_is_the_maximum() -> None:
    assert timeout_s(round_timeout_s=123.0) == 123.0


@pytest.mark.parametrize("factor", [2.0, 10.0])
def test_timeout_is_the_factor_times_the_median_round(factor: float) -> None:
    assert timeout_s(100.0, 900.0, 200.0, deadline_factor=factor) == factor * 200.0
    assert timeout_s(100.0, 200.0, deadline_factor=factor) == factor * 150.0


def test_timeout_is_between_a_minute_and_the_maximum() -> None:
    assert timeout_s(0.1) == 60.0
    assert timeout_s(1000.0) == 7200.0
    assert timeout_s(0.1, round_timeout_s=5.0) == 5.0
