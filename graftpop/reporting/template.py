"""Templates of a page: its frame, and the parts of its sections."""

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
    """A section of the page."""

    name: str
    title: str
    body: Markup


def page_html(title: str, about: Sequence[str], sections: Sequence[Section], drawings: Mapping[str, str]) -> str:
    """Return a self-contained page.

    Args:
        title: of the page.
        about: lines below the title.
        sections: in order.
        drawings: figures as JSON, by the names in the sections.
    """
    everything = "{" + ", ".join(f"{json.dumps(name)}: {drawing}" for name, drawing in drawings.items()) + "}"
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            about=about,
            sections=sections,
            style=Markup(_file("page.css")),
            script=Markup(_file("page.js")),
            drawings=Markup(everything.replace("</", "<\\/").replace("<!--", "<\\u0021--")),
            plotly=Markup(_plotly_js()),
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("graftpop.reporting", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def part(name: str, *arguments: Any) -> Markup:
    """Return a part of the page from a macro of `parts.html`."""
    return Markup(getattr(_templates().get_template("parts.html").module, name)(*arguments))


def _file(name: str) -> str:
    return resources.files("graftpop.reporting").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly_js() -> str:
    return str(plotly.offline.get_plotlyjs())
