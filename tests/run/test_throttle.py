"""Throttle: an action is due again after its share of the time."""

import time

import pytest

from graftpop.run.throttle import Throttle


def test_new_throttle_is_due() -> None:
    assert Throttle(0.5).is_due


def test_action_is_due_after_its_duration_over_the_share() -> None:
    throttle = Throttle(0.1)
    begin = time.monotonic()
    throttle.do(lambda: time.sleep(0.02))
    assert not throttle.is_due  # for 0.2 s
    time.sleep(10 * (time.monotonic() - begin) + 0.05)  # the sleep above may take longer on a busy machine
    assert throttle.is_due


def test_failed_action_counts_too() -> None:
    throttle = Throttle(0.001)

    def fail() -> None:
        time.sleep(0.01)
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        throttle.do(fail)
    assert not throttle.is_due
