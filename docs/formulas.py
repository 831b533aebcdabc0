"""Formulas of the pages as MathML, which browsers draw without a script.

The sources are those of code hosts: `$...$` within a line, and a block fenced as `math`.
"""

import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.exceptions import PluginError

INLINE = r"(?<![\w$\\])\$(?=[^\s$])([^$\n]*?[^\s$\\])\$(?![\w$])"
PRIORITY = 185
"""Below code within backticks, 190, and above escapes by a backslash, 180."""


def mathml(source: str, display: str) -> str:
    """Return a formula as MathML.

    Args:
        source: LaTeX that latex2mathml understands.
        display: inline or block.

    Raises:
        PluginError: a command is unknown, or an & is outside a table.
    """
    formula = convert(source, display=display)
    try:
        ElementTree.fromstring(formula)
    except ElementTree.ParseError as error:
        raise PluginError(f"formula: must be LaTeX that latex2mathml understands, got {source!r} ({error})") from error
    if "\\" in formula:
        raise PluginError(f"formula: must have commands that latex2mathml knows, got {source!r}")
    return formula


class InlineFormula(InlineProcessor):
    """Replaces `$...$`."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]
        """Return the placeholder of a formula and the place that it replaces."""
        del data
        return self.md.htmlStash.store(mathml(self.unescape(m[1]), "inline")), m.start(0), m.end(0)


class Formulas(Extension):
    """Adds formulas within a line to Markdown."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the pattern."""
        md.inlinePatterns.register(InlineFormula(INLINE, md), "formula", PRIORITY)


def block(source: str, *_: Any, **__: Any) -> str:
    """Return the HTML of a block."""
    return f'<div class="formula">{mathml(source.strip(), "block")}</div>'


def on_config(config: Any) -> Any:
    """Add both forms to the Markdown of the site."""
    config.markdown_extensions.append(Formulas())
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": block})
    return config
