"""The report of a run: one HTML page with tables and figures, built from the run folder."""

from graftpop.reporting.live_report import LiveReport

__all__ = ["LiveReport"]
