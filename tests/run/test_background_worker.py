"""BackgroundWorker: order of calls, errors and timeouts."""

import logging
import threading
from collections.abc import Callable
from functools import partial

import pytest

from graftpop.errors import ResourceError, SpaceError
from graftpop.run.background_worker import BackgroundWorker


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_finish_waits_for_all_calls_in_order() -> None:
    done: list[int] = []
    worker = BackgroundWorker("place")
    for number in range(100):
        worker.submit(partial(done.append, number))
    assert worker.finish()
    assert done == list(range(100))


def test_equal_errors_are_logged_once_and_calls_continue(caplog: pytest.LogCaptureFixture) -> None:
    worker, done = BackgroundWorker("tune.trackers: place"), []
    with caplog.at_level(logging.WARNING, "graftpop"):
        for error in (OSError("no\nroute"), OSError("no\nroute"), KeyError("run")):
            worker.submit(failing(error))
        worker.submit(lambda: done.append(1))
        assert worker.finish()
    assert done == [1]
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "tune.trackers: place: no route",
        "tune.trackers: place: 'run'",
    ]


def test_call_raises_the_reason_of_a_failure() -> None:
    worker = BackgroundWorker("tune.trackers: place")
    worker.call(lambda: None)
    with pytest.raises(ResourceError, match=r"^tune\.trackers: place: [^\n]*refused$"):
        worker.call(failing(OSError("refused")))
    with pytest.raises(SpaceError, match=r"^message for the user$"):
        worker.call(failing(SpaceError("message for the user")))
    assert worker.finish()


def test_hanging_call_times_out(caplog: pytest.LogCaptureFixture) -> None:
    worker, release = BackgroundWorker("tune.trackers: place"), threading.Event()
    with pytest.raises(ResourceError, match=r"^tune\.trackers: place: [^\n]*0\.1 s"):
        worker.call(lambda: assert_waited(release), timeout_s=0.1)
    with caplog.at_level(logging.WARNING, "graftpop"):
        assert not worker.finish(timeout_s=0.1)
    (message,) = caplog.messages
    assert message.startswith("tune.trackers: place: ")
    assert "0.1 s" in message
    release.set()


def test_calls_left_at_the_timeout_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    worker, release, done = BackgroundWorker("place"), threading.Event(), []
    worker.submit(lambda: assert_waited(release))
    worker.submit(failing(OSError("unheard")))
    worker.submit(lambda: done.append(1))
    with caplog.at_level(logging.WARNING, "graftpop"):
        assert not worker.finish(timeout_s=0.1)
        release.set()
        assert worker.finish()
    assert done == []
    assert len(caplog.messages) == 1


def assert_waited(release: threading.Event) -> None:
    assert release.wait(30)
