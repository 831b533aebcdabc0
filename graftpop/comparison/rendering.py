"""Tables of a comparison study: as HTML for the report, as Markdown, and for the terminal."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.console import RenderableType
from rich.markup import escape as plain
from rich.table import Table

from graftpop.comparison.difference import CONFIDENCE, Difference
from graftpop.comparison.groups import COSTS, Group, Line, published_percent, verdict
from graftpop.metrics import ACCURACY, Metric
from graftpop.study.trials import duration

__all__ = ["comparison_html", "comparison_markdown", "comparison_tables"]

COLUMNS = {
    "variant": "variant",
    "test METRIC": "test",
    "difference": "difference",
    f"{100 * CONFIDENCE:.0f} % interval": f"{100 * CONFIDENCE:.0f} %",
    "n": "n",
    "images trained, millions": "M images",
    "peers": "peers",
    "epochs per peer": "epochs",
    "time, one device per peer": "time",
    "inference FLOPs, millions": "MFLOPs",
    "FLOPs left, %": "FLOPs %",
    "published, %": "publ. %",
}
"""Column headings, with their short forms for the terminal; METRIC stands for the metric's name."""

OF_SHARE = {"test METRIC": ("test METRIC, %", "test %"), "difference": ("difference, points", "points")}
"""Headings with the unit of a metric that is a share."""

HEADS_OF_COSTS = dict(
    zip(
        COSTS,
        ("images trained, millions", "epochs per peer", "time, one device per peer", "inference FLOPs, millions"),
        strict=True,
    )
)
"""The column of each cost."""

MEANINGS = {
    "images": "of all peers together",
    "epochs": "of each network",
    "time": "with one device per peer",
    "flops": "of the output",
}
"""Words that say, for each cost, which networks it counts."""

OPTIONAL = ("time, one device per peer", "inference FLOPs, millions", "FLOPs left, %", "published, %")
"""Columns that are left out if no variant has a value."""

UNDIVIDED = ("n", "peers", "epochs per peer", *OPTIONAL[:2], "difference")
"""Columns that a narrow terminal must not wrap: their texts have no spaces."""

FIGURE = """<figure data-figure="differences/{index}">
<figcaption>Mean difference from {baseline} with its interval, and the difference for each seed.</figcaption>
<div class="plot" role="img"></div></figure>"""

COST_FIGURE = """<figure data-figure="costs/{index}/{cost}"><figcaption>{caption}</figcaption>
<div class="plot" role="img"></div></figure>"""

PLUS_MINUS = "\u00b1"


def comparison_html(groups: Sequence[Group], published: Mapping[str, Any] | None) -> str:
    """Return the section of the report, with placeholders for each group's `differences/INDEX` and `costs/INDEX/COST`.

    Args:
        groups: groups from `compare_trials`.
        published: published results from the space.
    """
    parts = []
    for index, group in enumerate(groups):
        parts += [f"<h3>{escape(_name(group))}</h3>"] if group.values else []
        parts += [_table(group, _heads(groups, published), published), f"<p>{escape(verdict(group))}</p>"]
        parts += [FIGURE.format(index=index, baseline=escape(group.baseline))] if group.differences else []
        parts += _cost_figures(group, index)
        warnings = "".join(f"<li>{escape(line)}</li>" for line in _warnings(group))
        parts += [f"<p>Before comparing:</p><ul>{warnings}</ul>"] if warnings else []
    parts += [f"<p class='note'>Published: {escape(published['source'])}</p>"] if published else []
    return "\n".join([*parts, f"<p class='note'>{escape(_note(groups))}</p>"])


def _cost_figures(group: Group, index: int) -> list[str]:
    """Return the placeholders of the figures of a group, one per known cost."""
    costs = group.known_costs
    if not costs:
        return []
    mark = " (unequal)" if group.unequal else " (equal)"
    captions = {cost: f"By {COSTS[cost]}{mark * (cost == group.equal)}." for cost in costs}
    if len(group.front) > 1:
        captions["flops"] += " Dotted: the Pareto front."
    figures = "".join(COST_FIGURE.format(index=index, cost=cost, caption=captions[cost]) for cost in costs)
    text = (
        f"Mean test {group.primary.label} with its standard deviation, against each cost. Variants with nearly equal "
    )
    text += "costs are drawn side by side."
    return [f"<p>{escape(text)}</p><div class='panels'>{figures}</div>"]


def comparison_markdown(groups: Sequence[Group], published: Mapping[str, Any] | None) -> str:
    """Return the tables of all groups with their verdicts and warnings, in Markdown."""
    heads = _heads(groups, published)
    parts = []
    for group in groups:
        parts += [f"**{_name(group)}**"] if group.values else []
        table = [
            [_heading(head, group)[0] for head in heads],
            ["---", *["---:"] * (len(heads) - 1)],
            *(_texts(line, group, heads, published) for line in group.ranked),
        ]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
        parts += filter(None, [verdict(group), "\n".join(f"- {line}" for line in _warnings(group))])
    parts += [f"Published: {published['source']}"] if published else []
    return "\n\n".join([*parts, _note(groups)])


def comparison_tables(groups: Sequence[Group], published: Mapping[str, Any] | None) -> list[RenderableType]:
    """Return each group's table, verdict and warnings, and the meanings of the costs, for the terminal."""
    parts: list[RenderableType] = []
    heads = _heads(groups, published)
    for group in groups:
        table = Table(
            box=None,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            header_style="bold",
            title=plain(_name(group)) or None,
            title_justify="left",
        )
        for head in heads:
            table.add_column(
                _heading(head, group)[1],
                justify="left" if head == "variant" else "right",
                overflow="fold",
                no_wrap=head in UNDIVIDED,
            )
        for line in group.ranked:
            table.add_row(*map(plain, _texts(line, group, heads, published)))
        parts += ["", table, plain(verdict(group)), *(f"[yellow]{plain(text)}[/]" for text in _warnings(group))]
    costs = [f"{COLUMNS[head]} {MEANINGS[cost]}" for cost, head in HEADS_OF_COSTS.items() if head in heads]
    return [*parts, *([f"[dim]{'; '.join(costs)}[/]"] if groups else []), ""]


def _heads(groups: Sequence[Group], published: Mapping[str, Any] | None) -> list[str]:
    lines = [line for group in groups for line in group.lines]
    says = dict.fromkeys(OPTIONAL, published is not None)
    for head, name in zip(OPTIONAL[:3], ("time_s", "inference_flops", "flops_left"), strict=True):
        says[head] = any(getattr(line, name) is not None for line in lines)
    return [head for head in COLUMNS if says.get(head, True)]


def _heading(head: str, group: Group) -> tuple[str, str]:
    """Return the heading of a column and its two-line short form, with metric, unit and whether it is equal."""
    long, short = OF_SHARE.get(head, (head, COLUMNS[head])) if group.primary.is_share else (head, COLUMNS[head])
    mark = ""
    if head == HEADS_OF_COSTS[group.equal]:
        mark = "unequal" if group.unequal else "equal"
        long = f"{long} ({mark})"
    return long.replace("METRIC", group.primary.label), f"{mark}\n{short}"


def _texts(line: Line, group: Group, heads: Sequence[str], published: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of one variant for the given columns.

    Args:
        line: results of the variant.
        group: group of the line.
        heads: shown columns, keys of `COLUMNS`.
        published: published results from the space.
    """
    cells = dict(zip(COLUMNS, _cells(line, group, published), strict=True))
    return [cells[head] for head in heads]


def _cells(line: Line, group: Group, published: Mapping[str, Any] | None) -> list[str]:
    images = None if line.train_images is None else line.train_images / 1e6
    texts = [
        line.variant,
        _with_std(line.mean, line.std, group.primary),
        *_difference(line, group),
        str(line.n),
        *("" if value is None else f"{value:.4g}" for value in (images, line.num_peers, line.epochs)),
        "" if line.time_s is None else duration(line.time_s) if line.time_s >= 60 else f"{line.time_s:.3g}s",
        "" if line.inference_flops is None else f"{line.inference_flops / 1e6:.4g}",
        "" if line.flops_left is None else f"{100 * line.flops_left:.1f}",
    ]
    found = published_percent(group, line.variant, published)
    return [
        *texts,
        " or ".join(f"{percent:.2f}{'' if std is None else f' {PLUS_MINUS} {std:.2f}'}" for percent, std in found),
    ]


def _name(group: Group) -> str:
    """Return the group's values as text; empty if only variant and seed are searched."""
    return ", ".join(group.texts)


def _note(groups: Sequence[Group]) -> str:
    """Return an explanation of the differences and of the chance errors of all intervals together."""
    primary, equal = (groups[0].primary, groups[0].equal) if groups else (ACCURACY, "images")
    text = f"Variants are compared at equal {equal} {MEANINGS[equal]}."
    if equal == "time":
        text += " Seconds vary with the machine's load, so the images of the peer that trained on most stand for time."
    text += (
        f" Difference: variant minus baseline{' in percentage points' * primary.is_share}, mean over the seeds that "
        f"both completed, with its {100 * CONFIDENCE:.0f} % interval by Student's t."
    )
    if primary.mode == "min":
        text += f" A lower {primary.label} is better."
    num = sum(difference.interval is not None for group in groups for difference in group.differences.values())
    if not num:
        return text
    misses = 1 - CONFIDENCE
    return (
        f"{text} By chance alone, such an interval misses the true difference in {100 * misses:.0f} % of studies: "
        f"of the {num} here, {num * misses:.2g} are expected to miss it. One interval of many that barely "
        f"excludes 0 is weak evidence."
    )


def _warnings(group: Group) -> list[str]:
    """Return the warnings of a group, each starting with the variants it applies to."""
    variants_of: dict[str, list[str]] = {}
    for line in group.lines:
        for warning in line.warnings:
            variants_of.setdefault(warning, []).append(line.variant)
    num_others = len(group.lines) - 1
    return [
        f"{'every variant' if 2 < num_others == len(variants) else ', '.join(variants)}: {warning}"
        for warning, variants in variants_of.items()
    ]


def _with_std(mean: float | None, std: float | None, primary: Metric) -> str:
    """Return a score and its standard deviation, a share in percent."""
    if mean is None:
        return ""
    texts = [f"{100 * value:.2f}" if primary.is_share else f"{value:.4g}" for value in (mean, std) if value is not None]
    return f" {PLUS_MINUS} ".join(texts)


def _difference(line: Line, group: Group) -> tuple[str, str]:
    if line.variant == group.baseline:
        return "baseline", ""
    if line.difference is None:
        return "", ""
    return _points(line.difference.mean, group.primary), _interval(line.difference, group.primary)


def _interval(difference: Difference, primary: Metric) -> str:
    if difference.interval is None:
        return ""
    return " to ".join(_points(limit, primary) for limit in difference.interval)


def _points(difference: float, primary: Metric) -> str:
    """Return a difference, of shares in percentage points; a value that rounds to 0 has no minus sign."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}" if primary.is_share else f"{difference + 0.0:+.4g}"


def _table(group: Group, heads: Sequence[str], published: Mapping[str, Any] | None) -> str:
    caption = (
        f"Test {group.primary.label}: mean {PLUS_MINUS} standard deviation over n seeds. "
        "Other columns: means over the same trials."
    )
    columns = [_heading(head, group)[0] for head in heads]
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    body = []
    for line in group.ranked:
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
    """Return a text with minus signs in place of hyphens, which are too short next to digits."""
    return text.replace("-", "\u2212")
