"""Rendering of a comparison for the report page, Markdown and the terminal."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.console import RenderableType
from rich.markup import escape as plain
from rich.table import Table

from graftpop.comparison.difference import CONFIDENCE, Difference
from graftpop.comparison.groups import Group, Line, published_percent, verdict
from graftpop.study.trials import duration

__all__ = ["comparison_html", "comparison_markdown", "comparison_tables"]

COLUMNS = {
    "variant": "variant",
    "n": "n",
    "test accuracy, %": "test %",
    "images trained, millions": "M images",
    "peers": "peers",
    "epochs per peer": "epochs",
    "wall time": "time",
    "FLOPs left, %": "FLOPs %",
    "difference, points": "points",
    f"{100 * CONFIDENCE:.0f} % interval": f"{100 * CONFIDENCE:.0f} %",
    "published, %": "publ. %",
}
"""Column headings, and their short forms for a terminal; optional columns need a value."""

OPTIONAL = ("FLOPs left, %", "published, %")

UNDIVIDED = ("n", "peers", "epochs per peer", "wall time", "difference, points")
"""Columns whose texts a narrow terminal must not break."""

DRAWING = """<figure class="drawing" data-drawing="differences/{index}">
<figcaption>Differences to {baseline}: mean with interval, and each seed.</figcaption>
<div class="plot" role="img"></div></figure>"""

PLUS_MINUS = "\u00b1"


def comparison_html(groups: Sequence[Group], published: Mapping[str, Any] | None) -> str:
    """Return the report's section, with a placeholder for each group's figure: `differences/INDEX`.

    Args:
        groups: from `compare_trials`.
        published: the space's section `published`.
    """
    parts = []
    for index, group in enumerate(groups):
        parts += [f"<h3>{escape(_name(group))}</h3>"] if group.values else []
        parts += [_table(group, _heads(groups, published), published), f"<p>{escape(verdict(group))}</p>"]
        parts += [DRAWING.format(index=index, baseline=escape(group.baseline))] if group.differences else []
        warnings = "".join(f"<li>{escape(line)}</li>" for line in _warnings(group))
        parts += [f"<p>Before comparing:</p><ul>{warnings}</ul>"] if warnings else []
    parts += [f"<p class='note'>Published: {escape(published['source'])}</p>"] if published else []
    return "\n".join([*parts, f"<p class='note'>{escape(_note(groups))}</p>"])


def comparison_markdown(groups: Sequence[Group], published: Mapping[str, Any] | None) -> str:
    """Return the tables of all groups with what is to be said of them, in Markdown."""
    heads = _heads(groups, published)
    parts = []
    for group in groups:
        parts += [f"**{_name(group)}**"] if group.values else []
        table = [
            heads,
            ["---", *["---:"] * (len(heads) - 1)],
            *(_texts(line, group, heads, published) for line in group.lines),
        ]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
        parts += filter(None, [verdict(group), "\n".join(f"- {line}" for line in _warnings(group))])
    parts += [f"Published: {published['source']}"] if published else []
    return "\n\n".join([*parts, _note(groups)])


def comparison_tables(groups: Sequence[Group], published: Mapping[str, Any] | None) -> list[RenderableType]:
    """Return what a terminal shows: for each group its table, what its intervals say, and its warnings."""
    parts: list[RenderableType] = []
    heads = _heads(groups, published)
    for group in groups:
        table = Table(
            box=None, pad_edge=False, header_style="bold", title=plain(_name(group)) or None, title_justify="left"
        )
        for head in heads:
            table.add_column(
                COLUMNS[head],
                justify="left" if head == "variant" else "right",
                overflow="fold",
                no_wrap=head in UNDIVIDED,
            )
        for line in group.lines:
            table.add_row(*map(plain, _texts(line, group, heads, published)))
        parts += ["", table, plain(verdict(group)), *(f"[yellow]{plain(text)}[/]" for text in _warnings(group))]
    return [*parts, ""]


def _heads(groups: Sequence[Group], published: Mapping[str, Any] | None) -> list[str]:
    is_cut = any(line.flops_left is not None for group in groups for line in group.lines)
    says = dict(zip(OPTIONAL, (is_cut, published is not None), strict=True))
    return [head for head in COLUMNS if says.get(head, True)]


def _texts(line: Line, group: Group, heads: Sequence[str], published: Mapping[str, Any] | None) -> list[str]:
    """Return the texts of one variant's row under some of `COLUMNS`.

    Args:
        line: the variant.
        group: the one that the line is of.
        heads: what of `COLUMNS` is shown.
        published: as the space has it.
    """
    cells = dict(zip(COLUMNS, _cells(line, group, published), strict=True))
    return [cells[head] for head in heads]


def _cells(line: Line, group: Group, published: Mapping[str, Any] | None) -> list[str]:
    images = None if line.train_images is None else line.train_images / 1e6
    texts = [
        line.variant,
        str(line.n),
        _with_std(line.mean, line.std),
        *("" if value is None else f"{value:.4g}" for value in (images, line.num_peers, line.epochs)),
        "" if line.wall_s is None else duration(line.wall_s),
        "" if line.flops_left is None else f"{100 * line.flops_left:.1f}",
        *_difference(line, group),
    ]
    found = published_percent(group, line.variant, published)
    return [
        *texts,
        " or ".join(f"{percent:.2f}{'' if std is None else f' {PLUS_MINUS} {std:.2f}'}" for percent, std in found),
    ]


def _name(group: Group) -> str:
    """Return the values that make the group, or nothing where nothing but variants and seeds is searched."""
    return ", ".join(f"{key} = {value}" for key, value in group.values.items())


def _note(groups: Sequence[Group]) -> str:
    """Return how to read the differences and their intervals, all of them together."""
    text = (
        "Difference: mean over the seeds that both completed of variant minus baseline, in percentage points, with "
        f"its {100 * CONFIDENCE:.0f} % interval by Student's t."
    )
    num = sum(difference.interval is not None for group in groups for difference in group.differences.values())
    if not num:
        return text
    misses = 1 - CONFIDENCE
    return (
        f"{text} By chance alone such an interval misses the true difference in {100 * misses:.0f} % of all "
        f"studies: of the {num} here, {num * misses:.2g} are expected to. One of many intervals that only just "
        f"leaves out 0 is weak evidence."
    )


def _warnings(group: Group) -> list[str]:
    """Return the warnings of a group, one line each, beginning with the variants that they are about."""
    variants_of: dict[str, list[str]] = {}
    for line in group.lines:
        for warning in line.warnings:
            variants_of.setdefault(warning, []).append(line.variant)
    num_others = len(group.lines) - 1
    return [
        f"{'every variant' if 2 < num_others == len(variants) else ', '.join(variants)}: {warning}"
        for warning, variants in variants_of.items()
    ]


def _with_std(mean: float | None, std: float | None) -> str:
    """Return an accuracy and its standard deviation, in per cent."""
    if mean is None:
        return ""
    return f"{100 * mean:.2f}" + ("" if std is None else f" {PLUS_MINUS} {100 * std:.2f}")


def _difference(line: Line, group: Group) -> tuple[str, str]:
    if line.variant == group.baseline:
        return "baseline", ""
    if line.difference is None:
        return "", ""
    return _points(line.difference.mean), _interval(line.difference)


def _interval(difference: Difference) -> str:
    if difference.interval is None:
        return ""
    return " to ".join(map(_points, difference.interval))


def _points(share: float) -> str:
    """Return a difference in percentage points; what rounds to 0 has no minus."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def _table(group: Group, heads: Sequence[str], published: Mapping[str, Any] | None) -> str:
    caption = f"Test accuracy: mean {PLUS_MINUS} standard deviation over n seeds. The rest: means over the same trials."
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in heads)
    body = []
    for line in group.lines:
        _, *others = (escape(_minus(text)) for text in _texts(line, group, heads, published))
        body.append(
            f"<tr><th scope='row'>{escape(line.variant)}</th>"
            + "".join(f"<td>{text}</td>" for text in others)
            + "</tr>"
        )
    label = f"Comparison of variants {_name(group)}".strip()
    return (
        f"<div class='wide' role='region' tabindex='0' aria-label='{escape(label)}'><table class='variants'>"
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(body)
        + "</tbody></table></div>"
    )


def _minus(text: str) -> str:
    """Return a text with the sign for minus in place of the hyphen, which is too short beside digits."""
    return text.replace("-", "\u2212")
