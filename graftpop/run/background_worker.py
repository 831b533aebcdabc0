"""Work that a study does not wait for: calls to services that may be slow, or away, one after the other beside it.

What fails there is told and ends nothing: the run folder has it all.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

from graftpop.errors import GraftpopError, ResourceError, one_line

__all__ = ["BackgroundWorker"]

ANSWER_TIMEOUT_S = 60.0
"""How long a service may take to answer before anything starts."""

END_LIMIT_S = 60.0
"""How long a study that has ended waits for what is still to be done."""

logger = logging.getLogger("graftpop")


class BackgroundWorker:
    """A thread that makes calls one after the other, in the order in which they were added.

    Args:
        what: is served, as messages begin: `tune.trackers: mlflow`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # a daemon, since a call that hangs would keep the interpreter from ending
        self._thread = Thread(target=self._work, name=what, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Make a call later; what it fails of is told once."""
        self._calls.put(call)

    def call(self, call: Callable[[], None], timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Make a call and wait for its end.

        Raises:
            ResourceError: it did not end in time, or failed; what it has to say to the user is raised as it is.
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
                f"{self._what}: must answer within {timeout_s:g} s before anything starts, and did not; "
                f"see that it can be reached from here"
            ) from error
        except Exception as error:
            raise ResourceError(f"{self._what}: cannot be used: {_reason(error)}") from error

    def finish(self, timeout_s: float = END_LIMIT_S) -> bool:
        """Wait until everything is done, or for so long; return whether it is."""
        self._calls.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning("%s: was not done %g s after the study, and is left", self._what, timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        told = set()
        for call in iter(self._calls.get, None):
            try:
                call()
            except Exception as error:  # each library has its own, and those of the network below them
                reason = str(error) if isinstance(error, GraftpopError) else f"{self._what}: {_reason(error)}"
                if reason not in told:
                    logger.warning("%s; the study goes on", reason)
                    told.add(reason)


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__
