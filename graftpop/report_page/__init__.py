"""The report of a run as a page: tables and drawings, made from the tables of its folder."""

from graftpop.report_page.live import LiveReport

__all__ = ["LiveReport"]
