"""What is done beside a study: in order, told where it fails, and never waited for without a limit."""

import logging
import threading
from collections.abc import Callable

import pytest

from graftpop.errors import ResourceError, SpaceError
from graftpop.run.background_worker import Sideline


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_calls_are_made_in_their_order_and_all_of_them_before_the_end() -> None:
    sideline, made = Sideline("place"), []
    for number in range(100):
        sideline.add(lambda number=number: made.append(number))  # type: ignore[misc]
    assert sideline.finish()
    assert made == list(range(100))


def test_what_fails_is_told_once_and_the_next_call_is_made(caplog: pytest.LogCaptureFixture) -> None:
    sideline, made = Sideline("tune.log: place"), []
    with caplog.at_level(logging.WARNING, "graftpop"):
        for error in (OSError("no\nroute"), OSError("no\nroute"), KeyError("run")):
            sideline.add(failing(error))
        sideline.add(lambda: made.append(1))
        assert sideline.finish()
    assert made == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "tune.log: place: no route; the study goes on",
        "tune.log: place: 'run'; the study goes on",
    ]


def test_who_asks_learns_why_it_failed() -> None:
    sideline = Sideline("tune.log: place")
    sideline.ask(lambda: None)
    with pytest.raises(ResourceError, match=r"^tune\.log: place: cannot be used: refused$"):
        sideline.ask(failing(OSError("refused")))
    with pytest.raises(SpaceError, match=r"^a message of its own$"):
        sideline.ask(failing(SpaceError("a message of its own")))
    assert sideline.finish()


def test_a_call_that_hangs_is_waited_for_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    sideline, release = Sideline("tune.log: place"), threading.Event()
    with pytest.raises(ResourceError, match=r"place: must answer within 0\.1 s before anything starts, and did not"):
        sideline.ask(lambda: assert_waited(release), limit_s=0.1)
    with caplog.at_level(logging.WARNING, "graftpop"):
        assert not sideline.finish(limit_s=0.1)
    assert caplog.messages == ["tune.log: place: was not done 0.1 s after the study, and is left"]
    release.set()


def assert_waited(release: threading.Event) -> None:
    assert release.wait(30)
