"""Calls to services that may be slow or away, made in a background thread so that the study never waits for them.

A failed call is logged and ends nothing: the run folder holds all results.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

from graftpop.errors import GraftpopError, ResourceError, one_line

__all__ = ["BackgroundWorker"]

ANSWER_TIMEOUT_S = 60.0
"""Seconds that a service may take to answer before a study starts."""

END_LIMIT_S = 60.0
"""Seconds that a finished study waits for the calls that are still queued."""

logger = logging.getLogger("graftpop")


class BackgroundWorker:
    """A thread that makes calls one after the other, in the order of submission.

    Args:
        where: prefix of messages, the key and the service: `tune.trackers: mlflow`.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._has_given_up = False
        # a daemon thread, because a hanging call would keep the interpreter alive
        self._thread = Thread(target=self._work, name=where, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Queue a call; an error is logged, equal errors once."""
        self._calls.put(call)

    def call(self, call: Callable[[], None], timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Make a call and wait until it returns.

        Args:
            call: the call; its return value is dropped.
            timeout_s: how long to wait, in seconds.

        Raises:
            GraftpopError: raised by the call, unchanged.
            ResourceError: the call timed out or raised any other error.
        """
        answer: Future[None] = Future()

        def act() -> None:
            try:
                call()
                answer.set_result(None)
            except Exception as error:  # see `_work`
                answer.set_exception(error)

        self.submit(act)
        try:
            answer.result(timeout_s)
        except GraftpopError:
            raise
        except TimeoutError as error:
            raise ResourceError(
                f"{self._where}: must answer within {timeout_s:g} s before the study starts, got no answer; "
                f"check that this machine can reach it"
            ) from error
        except Exception as error:
            raise ResourceError(f"{self._where}: cannot be used: {_reason(error)}") from error

    def finish(self, timeout_s: float = END_LIMIT_S) -> bool:
        """Wait for all queued calls, at most `timeout_s` seconds; return whether they are done."""
        self._calls.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._has_given_up = True
            logger.warning(
                "%s: not done %g s after the end of the study; the remaining calls are dropped", self._where, timeout_s
            )
        return not self._thread.is_alive()

    def _work(self) -> None:
        logged = set()
        for call in iter(self._calls.get, None):
            if self._has_given_up:
                return
            try:
                call()
            except Exception as error:  # each library raises its own errors, and those of the network below
                reason = str(error) if isinstance(error, GraftpopError) else f"{self._where}: {_reason(error)}"
                if reason not in logged and not self._has_given_up:  # then it was cut off by the end of the process
                    logger.warning("%s; the study continues", reason)
                    logged.add(reason)


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__
