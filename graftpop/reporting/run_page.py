"""The report of a run: one self-contained page, built only from files in the run folder."""

import shlex
from collections.abc import Mapping
from typing import Any

from graftpop.comparison import compare_trials, comparison_markdown
from graftpop.errors import CheckpointError
from graftpop.reporting.run_sections import run_sections
from graftpop.reporting.run_tables import Tables, read_tables
from graftpop.reporting.template import page_html
from graftpop.run.provenance import hardware_text, read_provenance
from graftpop.run.run_folder import RunFolder
from graftpop.space import parse_space
from graftpop.space.yaml_text import read_sections

__all__ = ["read_figures", "read_report_html", "report_html", "report_markdown", "write_report"]


def write_report(folder: RunFolder) -> None:
    """Write `report.html` of a run folder from its current tables."""
    folder.write_text("report.html", read_report_html(folder))


def read_report_html(folder: RunFolder) -> str:
    """Return the page of a run folder, from its current tables."""
    text = folder.read_text("space.yaml")
    return report_html(read_tables(folder, text), space=text, provenance=read_provenance(folder))


def read_figures(folder: RunFolder) -> dict[str, str]:
    """Return the figures of the page of a run folder by name, each as JSON, from its current tables."""
    text = folder.read_text("space.yaml")
    _, _, figures = run_sections(read_tables(folder, text), text)
    return figures


def report_markdown(folder: RunFolder) -> str:
    """Return the tables of a comparison study in Markdown.

    Raises:
        CheckpointError: the run's space has no variants.
    """
    where = f"{folder.location}/space.yaml"
    space = parse_space(read_sections(folder.read_text("space.yaml"), where), where)
    if not space.variants:
        raise CheckpointError(
            f"{where}: --markdown needs a space with variants, got one without; omit --markdown to write the report"
        )
    return comparison_markdown(compare_trials(folder.read_table("trials").to_pylist(), space), space.published)


def report_html(tables: Tables, *, space: str, provenance: Mapping[str, Any]) -> str:
    """Return the HTML page.

    Args:
        tables: tables of the run.
        space: resolved search space, as YAML.
        provenance: content of `run.json`; may be empty.
    """
    name, sections, figures = run_sections(tables, space)
    command = shlex.join(provenance.get("command", ()))
    return page_html(name, _about(provenance), sections, figures, command)


def _about(provenance: Mapping[str, Any]) -> list[str]:
    if not provenance:
        return ["run.json is absent or damaged, so command, versions and hardware are unknown."]
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items() if version)
    commit = (provenance.get("git") or {}).get("commit", "")
    return [
        line
        for line in (
            f"{provenance['started']}, {provenance.get('status', 'running')}; {hardware_text(provenance)}",
            f"{versions}{f'; commit {commit[:12]}' if commit else ''}",
        )
        if line
    ]
