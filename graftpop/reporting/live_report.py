"""The report of a study that goes on: written anew beside everything else, and not too often."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from graftpop.errors import GraftpopError
from graftpop.run.tables import RunFolder
from graftpop.run.throttle import Throttle

__all__ = ["LiveReport"]

SHARE_OF_TIME = 0.02

logger = logging.getLogger("graftpop")


class LiveReport:
    """Writes `report.html` of a run folder in a thread of its own, for a fiftieth of the time at most.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._sparing = Throttle(SHARE_OF_TIME)
        self._writing: Future[None] | None = None

    def changed(self) -> None:
        """Write the report, unless that is under way or was done a short time ago."""
        if self._sparing.is_due and (self._writing is None or self._writing.done()):
            self._writing = self._thread.submit(self._sparing.do, self._write)

    def close(self) -> None:
        """Wait until what is being written is there."""
        self._thread.shutdown()

    def _write(self) -> None:
        from graftpop.reporting.run_page import write_report

        try:
            write_report(self._folder)
        except (GraftpopError, OSError) as error:
            logger.warning("%s/report.html: cannot be written now: %s", self._folder.location, error)
