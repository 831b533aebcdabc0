"""What watches a study in tests."""

import os
import signal
from collections.abc import Callable

from graftpop.study.trials import Trial


def interrupting_once_at(round: int) -> Callable[[list[Trial]], None]:
    """Return what watches a study and sends it one SIGINT once a trial has done so many rounds."""
    is_sent = False

    def watch(trials: list[Trial]) -> None:
        nonlocal is_sent
        if not is_sent and any(trial.round >= round for trial in trials):
            is_sent = True
            os.kill(os.getpid(), signal.SIGINT)

    return watch
