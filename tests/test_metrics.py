"""Tests of the metrics of tasks."""

import math

import pytest

from graftpop.metrics import Metric, is_share, text_of_metric

RMSE = Metric("rmse", "min")


@pytest.mark.parametrize("metric", [Metric("map"), RMSE])
def test_any_value_is_better_than_the_worst(metric: Metric) -> None:
    assert metric.merit(metric.worst) == -math.inf


def test_merit_is_higher_where_a_lower_value_is_better() -> None:
    assert RMSE.merit_of({"val_rmse": 1.0, "test_rmse": 3.0}) > RMSE.merit_of({"val_rmse": 2.0, "test_rmse": 0.0})


@pytest.mark.parametrize("column", [Metric("rank10").test, Metric("map").ensemble, Metric("accuracy").mean])
def test_shares_are_shown_in_percent(column: str) -> None:
    assert is_share(column)
    assert text_of_metric(column, 0.125) == "12.50 %"


@pytest.mark.parametrize("column", ["val_rmse", "map", "val_rank", "val_accuracy_left"])
def test_other_values_are_shown_as_numbers(column: str) -> None:
    assert not is_share(column)
    assert text_of_metric(column, 0.125) == "0.125"
