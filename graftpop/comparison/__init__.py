"""Variants against a baseline: their figures over seeds, how sure their differences are, and how that is read."""

from graftpop.comparison.groups import Group, compare_trials
from graftpop.comparison.rendering import comparison_html, comparison_markdown, comparison_tables

__all__ = ["Group", "compare_trials", "comparison_html", "comparison_markdown", "comparison_tables"]
