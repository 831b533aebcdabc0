"""Comparison of variants with a baseline: statistics over seeds, paired intervals, caveats, rendering."""

from graftpop.comparison.groups import Group, compare_trials
from graftpop.comparison.rendering import comparison_html, comparison_markdown, comparison_tables

__all__ = ["Group", "compare_trials", "comparison_html", "comparison_markdown", "comparison_tables"]
