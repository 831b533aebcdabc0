"""Rendering of a report page from its sections, figures and templates."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import plotly
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["Section", "page_html", "part"]


class Section(NamedTuple):
    """A section of a page: name for links, title, and HTML."""

    name: str
    title: str
    body: Markup


def page_html(
    title: str, about: Sequence[str], sections: Sequence[Section], figures: Mapping[str, str], command: str = ""
) -> str:
    """Return a self-contained HTML page.

    Args:
        title: title of the page.
        about: lines below the title.
        sections: sections in order.
        figures: figures as JSON, by the names in the sections' placeholders.
        command: the command that made the run, to copy; empty if unknown.
    """
    figures_json = "{" + ", ".join(f"{json.dumps(name)}: {figure}" for name, figure in figures.items()) + "}"
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            about=about,
            command=command,
            sections=sections,
            style=Markup(_file("page.css")),
            script=Markup(_file("page.js")),
            figures=Markup(figures_json.replace("</", "<\\/").replace("<!--", "<\\u0021--")),
            plotly=Markup(_plotly_js()),
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("graftpop.reporting", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def part(name: str, *arguments: Any) -> Markup:
    """Return the HTML of a macro in `parts.html`."""
    return Markup(getattr(_templates().get_template("parts.html").module, name)(*arguments))


def _file(name: str) -> str:
    return resources.files("graftpop.reporting").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly_js() -> str:
    return str(plotly.offline.get_plotlyjs())
