"""Callbacks that watch a study."""

import os
import signal
from collections.abc import Callable

from graftpop.study.trials import Trial


def interrupt_at_round(round: int) -> Callable[[list[Trial]], None]:
    """Return a callback that sends this process one SIGINT once a trial has reached a round."""
    is_sent = False

    def watch(trials: list[Trial]) -> None:
        nonlocal is_sent
        if not is_sent and any(trial.round >= round for trial in trials):
            is_sent = True
            os.kill(os.getpid(), signal.SIGINT)

    return watch
