"""An immediate answer to Ctrl-C; Tune ends the study only after its current step, and prints nothing."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ray.tune import Callback

__all__ = ["StopNotice"]


class StopNotice(Callback):
    """Calls a function when a SIGINT reaches Tune, before Tune's own handler.

    Args:
        on_stop: the function.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._of_tune: Callable[[int, FrameType | None], Any] | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Take the place of Tune's handler, which Tune sets after it has set up its callbacks."""
        del iteration, trials, info
        handler = signal.getsignal(signal.SIGINT)
        if self._of_tune is None and callable(handler) and threading.current_thread() is threading.main_thread():
            self._of_tune = handler
            signal.signal(signal.SIGINT, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        assert self._of_tune is not None, "it is set before this handler"
        self._on_stop()
        self._of_tune(number, frame)
