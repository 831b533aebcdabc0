"""The report of a running study, rewritten in the background."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from graftpop.errors import GraftpopError
from graftpop.run.run_folder import RunFolder
from graftpop.run.throttle import Throttle

__all__ = ["LiveReport"]

SHARE_OF_TIME = 0.02

logger = logging.getLogger("graftpop")


class LiveReport:
    """Rewrites `report.html` in a background thread, for at most `SHARE_OF_TIME` of the running time.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._throttle = Throttle(SHARE_OF_TIME)
        self._writing: Future[None] | None = None

    def changed(self) -> None:
        """Start writing the report, unless it is being written or was written recently."""
        if self._throttle.is_due and (self._writing is None or self._writing.done()):
            self._writing = self._thread.submit(self._throttle.do, self._write)

    def close(self) -> None:
        """Wait until a started report is written."""
        self._thread.shutdown()

    def _write(self) -> None:
        from graftpop.reporting.run_page import write_report

        try:
            write_report(self._folder)
        except (GraftpopError, OSError) as error:
            logger.warning(
                "%s/report.html: cannot be written: %s; the run continues and tries again", self._folder.shown, error
            )
