"""Variants against a baseline: their figures over seeds, how sure their differences are, and how that is read."""

from graftpop.comparison.page import comparison_html, comparison_markdown, comparison_tables
from graftpop.comparison.study import Group, compare_trials

__all__ = ["Group", "compare_trials", "comparison_html", "comparison_markdown", "comparison_tables"]
