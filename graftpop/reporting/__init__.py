"""The report of a run as a page: tables and drawings, made from the tables of its folder."""

from graftpop.reporting.live_report import LiveReport

__all__ = ["LiveReport"]
