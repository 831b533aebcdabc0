"""The report of a running study, rewritten in a background thread at a limited rate."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from graftpop.errors import GraftpopError
from graftpop.run.tables import RunFolder
from graftpop.run.throttle import Throttle

__all__ = ["LiveReport"]

SHARE_OF_TIME = 0.02

logger = logging.getLogger("graftpop")


class LiveReport:
    """Writes `report.html` in a background thread, for at most 2 % of the time.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._throttle = Throttle(SHARE_OF_TIME)
        self._writing: Future[None] | None = None

    def changed(self) -> None:
        """Write the report, unless a write is running or recent."""
        if self._throttle.is_due and (self._writing is None or self._writing.done()):
            self._writing = self._thread.submit(self._throttle.do, self._write)

    def close(self) -> None:
        """Wait for a running write."""
        self._thread.shutdown()

    def _write(self) -> None:
        from graftpop.reporting.run_page import write_report

        try:
            write_report(self._folder)
        except (GraftpopError, OSError) as error:
            logger.warning(
                "%s/report.html: cannot be written now, retried at the next change: %s", self._folder.location, error
            )
