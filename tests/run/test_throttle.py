"""What takes long is done less often."""

import time

import pytest

from graftpop.run.throttle import Throttle


def test_what_has_never_been_done_is_due() -> None:
    assert Throttle(0.5).is_due


def test_what_took_long_is_not_due_for_as_long_as_its_share_says() -> None:
    sparing = Throttle(0.1)
    sparing.do(lambda: time.sleep(0.02))
    assert not sparing.is_due  # for 0.2 s
    time.sleep(0.25)
    assert sparing.is_due


def test_what_failed_took_its_time_too() -> None:
    sparing = Throttle(0.001)

    def fail() -> None:
        time.sleep(0.01)
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        sparing.do(fail)
    assert not sparing.is_due
