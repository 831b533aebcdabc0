"""The report of a run: one HTML page of tables and figures, built from the run folder's tables."""

from graftpop.reporting.live_report import LiveReport

__all__ = ["LiveReport"]
