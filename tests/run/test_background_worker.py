"""What is done beside a study: in order, told where it fails, and never waited for without a limit."""

import logging
import threading
from collections.abc import Callable

import pytest

from graftpop.errors import ResourceError, SpaceError
from graftpop.run.background_worker import BackgroundWorker


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_calls_are_made_in_their_order_and_all_of_them_before_the_end() -> None:
    background, made = BackgroundWorker("place"), []
    for number in range(100):
        background.submit(lambda number=number: made.append(number))  # type: ignore[misc]
    assert background.finish()
    assert made == list(range(100))


def test_what_fails_is_told_once_and_the_next_call_is_made(caplog: pytest.LogCaptureFixture) -> None:
    background, made = BackgroundWorker("tune.trackers: place"), []
    with caplog.at_level(logging.WARNING, "graftpop"):
        for error in (OSError("no\nroute"), OSError("no\nroute"), KeyError("run")):
            background.submit(failing(error))
        background.submit(lambda: made.append(1))
        assert background.finish()
    assert made == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "tune.trackers: place: no route; the study goes on",
        "tune.trackers: place: 'run'; the study goes on",
    ]


def test_who_asks_learns_why_it_failed() -> None:
    background = BackgroundWorker("tune.trackers: place")
    background.call(lambda: None)
    with pytest.raises(ResourceError, match=r"^tune\.trackers: place: cannot be used: refused$"):
        background.call(failing(OSError("refused")))
    with pytest.raises(SpaceError, match=r"^a message of its own$"):
        background.call(failing(SpaceError("a message of its own")))
    assert background.finish()


def test_a_call_that_hangs_is_waited_for_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    background, release = BackgroundWorker("tune.trackers: place"), threading.Event()
    with pytest.raises(ResourceError, match=r"place: must answer within 0\.1 s before anything starts, and did not"):
        background.call(lambda: assert_waited(release), timeout_s=0.1)
    with caplog.at_level(logging.WARNING, "graftpop"):
        assert not background.finish(timeout_s=0.1)
    assert caplog.messages == ["tune.trackers: place: was not done 0.1 s after the study, and is left"]
    release.set()


def assert_waited(release: threading.Event) -> None:
    assert release.wait(30)
