"""The report of a run: one self-contained page, made from the run folder's tables alone.

No script, no network: tables and drawings in SVG, readable in light and dark and by a screen reader.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.comparison import compare_trials, comparison_html, comparison_markdown
from graftpop.errors import CheckpointError
from graftpop.records import RunFolder
from graftpop.space import parse_space
from graftpop.space.tree import read_sections
from graftpop.trials import best_row

__all__ = ["report_html", "report_markdown", "write_report"]

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 40, 12, 44

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #6a737d; --line: #d0d7de; --best: #b3530a;
  --other: #3f6fae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d;
  --best: #ffa657; --other: #79a8e8; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; }
p.note { color: var(--faint); margin-top: .2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.best td { font-weight: 600; color: var(--best); }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--line); } svg .other { stroke: var(--other); opacity: .45; } svg .best { stroke: var(--best); }
svg polyline { fill: none; stroke-width: 2; } pre { background: color-mix(in srgb, var(--ink) 6%, var(--paper));
  padding: 1rem; overflow-x: auto; }
table.variants { font-size: 14px; border-collapse: separate; border-spacing: 0; }
.variants th, .variants td { padding: .25rem .5rem; }
.variants th { white-space: normal; vertical-align: bottom; } .variants th[scope=row] { font-weight: 500; }
.variants th:first-child { min-width: 7rem; max-width: 11rem; overflow-wrap: anywhere; position: sticky; left: 0;
  background: var(--paper); }
caption { text-align: left; color: var(--faint); padding-bottom: .3rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(58rem, 100vw - 2rem); }
svg.differences { display: block; width: 38rem; margin-top: 1rem; }
svg.differences text { stroke: none; font-size: 11px; } svg .zero { stroke: var(--ink); }
svg .level, svg .apart { stroke-width: 2; stroke: var(--other); fill: var(--paper); }
svg .apart { stroke: var(--best); fill: var(--best); }
"""


def write_report(folder: RunFolder) -> None:
    """Write `report.html` of a run folder from its tables as they stand."""
    facts = json.loads(folder.read_text("run.json"))
    tables = [folder.read_table(name) for name in ("trials", "rounds", "grafts")]
    folder.write_text("report.html", report_html(*tables, space=folder.read_text("space.yaml"), facts=facts))


def report_markdown(folder: RunFolder) -> str:
    """Return the tables of a comparison study in Markdown.

    Raises:
        CheckpointError: the run is no comparison.
    """
    where = f"{folder.location}/space.yaml"
    space = parse_space(read_sections(folder.read_text("space.yaml"), where), where)
    if not space.variants:
        raise CheckpointError(f"{where}: --markdown needs the run of a space with variants, got one without; leave the "
                              f"option out to write the report")
    return comparison_markdown(compare_trials(folder.read_table("trials").to_pylist(), space), space.published)


def report_html(trials: pa.Table, rounds: pa.Table, grafts: pa.Table, *, space: str, facts: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        trials: one row a trial, as in `trials.parquet`.
        rounds: one row a trial, round and peer.
        grafts: one row a trial, round, receiver and site.
        space: the resolved search space.
        facts: the content of `run.json`.
    """
    rows = trials.to_pylist()
    best = best_row(rows)
    name = next((line.partition(":")[2].strip() for line in space.splitlines() if line.startswith("name:")), "run")
    hardware = facts["hardware"]
    machine = ", ".join([f"{hardware['cores']} cores of {hardware['processor']}", *hardware["gpus"]])
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p class='note'>{escape(facts['started'])}, {escape(str(facts.get('status', 'running')))}; "
        f"{escape(machine)}; {escape(' '.join(facts['command']))}</p>",
        *([_comparison(rows, space)] if "variant" in trials.column_names else []),
        "<h2>Best configuration</h2>", _best_sentence(best, trials.column_names),
        "<h2>Trials</h2>", _trials_table(rows, trials.column_names, best),
        "<h2>Validation accuracy by images trained</h2>",
        "<p class='note'>Best peer of each population; images of all its peers together, so that populations of "
        "different sizes compare at equal compute. The best trial stands out.</p>",
        _accuracy_plot(rounds, best),
    ]
    if best is not None and grafts.num_rows:
        peer = _best_peer(rounds, best["trial_id"])
        parts += ["<h2>What the best peer kept of itself: alpha by site and round</h2>",
                  f"<p class='note'>Peer {peer} of the best trial. {LEGEND}</p>",
                  _alpha_map(grafts, best["trial_id"], peer)]
    parts += ["<h2>Search space</h2>", f"<pre>{escape(space)}</pre>"]
    return (f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(name)}</title>"
            f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head>\n"
            "<body>\n" + "\n".join(parts) + "\n</body></html>\n")


LEGEND = "Blue: below 1/2, more of the donor; orange: above 1/2, more of itself."


def _comparison(rows: Sequence[Mapping[str, Any]], text: str) -> str:
    space = parse_space(read_sections(text, "space.yaml"), "space.yaml")
    return comparison_html(compare_trials(rows, space), space.published)


def _searched(columns: Sequence[str]) -> list[str]:
    return [column for column in columns if "." in column or column in ("variant", "seed")]


def _text(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _best_sentence(best: Mapping[str, Any] | None, columns: Sequence[str]) -> str:
    if best is None:
        return "<p>No trial has finished a round yet.</p>"
    values = ", ".join(f"<b>{escape(key)}</b> = {_text(key, best[key])}" for key in _searched(columns))
    tested = ""
    if best["test_accuracy"] is not None:
        tested = (f", test accuracy {_text('accuracy', best['test_accuracy'])} of the population's output and "
                  f"{_text('accuracy', best['ensemble_test_accuracy'])} of the ensemble of all peers")
    return (f"<p>Trial {escape(best['trial_id'])}: {values or 'nothing was searched'}. Validation accuracy "
            f"{_text('accuracy', best['val_accuracy'])}{tested}.</p>")


def _trials_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], best: Mapping[str, Any] | None) -> str:
    head = "".join(f"<th scope='col'>{escape(column.replace('_', ' '))}</th>" for column in columns)
    lines = ("".join(f"<td>{_text(column, row[column])}</td>" for column in columns) for row in rows)
    body = "".join(f"<tr{' class=best' if row is best else ''}>{line}</tr>\n"
                   for row, line in zip(rows, lines, strict=True))
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"


def _accuracy_plot(rounds: pa.Table, best: Mapping[str, Any] | None) -> str:
    if not rounds.num_rows:
        return "<p>No round is done yet.</p>"
    by_round = (rounds.group_by(["trial_id", "round"]).aggregate([("val_accuracy", "max"), ("train_images", "sum")])
                .sort_by([("trial_id", "ascending"), ("round", "ascending")]))
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in by_round.to_pylist():
        curve = curves.setdefault(row["trial_id"], [])
        images = row["train_images_sum"] + (curve[-1][0] if curve else 0)
        curve.append((images, row["val_accuracy_max"]))
    most = max(curve[-1][0] for curve in curves.values())

    def place(point: tuple[float, float]) -> str:
        x = LEFT + point[0] / most * (WIDTH - LEFT - RIGHT)
        y = TOP + (1 - point[1]) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    best_id = best["trial_id"] if best else None
    lines = [f"<polyline class='{'best' if trial == best_id else 'other'}' points='{' '.join(map(place, curve))}'>"
             f"<title>{escape(trial)}: {100 * curve[-1][1]:.2f} %</title></polyline>"
             for trial, curve in sorted(curves.items(), key=lambda item: item[0] == best_id)]
    marks = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        across, down = place((0, share)).split(",")
        marks.append(f"<line class='axis' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{down}' y2='{down}'/>"
                     f"<text x='{LEFT - 8}' y='{float(down) + 4}' text-anchor='end'>{100 * share:.0f} %</text>")
        across = place((share * most, 0)).split(",")[0]
        marks.append(f"<text x='{across}' y='{HEIGHT - BOTTOM + 18}' text-anchor='middle'>{share * most:,.0f}</text>")
    label = f"<text x='{(LEFT + WIDTH) / 2}' y='{HEIGHT - 6}' text-anchor='middle'>images trained by all peers</text>"
    return (f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='Validation accuracy of {len(curves)} trials'>"
            + "".join(marks) + label + "".join(lines) + "</svg>")


def _best_peer(rounds: pa.Table, trial_id: str) -> int:
    """Return the peer of a trial with the highest validation accuracy in its last round."""
    rows = rounds.filter(pc.equal(rounds["trial_id"], trial_id)).to_pylist()
    return int(max(rows, key=lambda row: (row["round"], row["val_accuracy"]))["peer"])


def _alpha_map(grafts: pa.Table, trial_id: str, receiver: int) -> str:
    wanted = pc.and_(pc.equal(grafts["trial_id"], trial_id), pc.equal(grafts["receiver"], receiver))
    rows = grafts.filter(wanted).to_pylist()
    sites = list(dict.fromkeys(row["site"] for row in rows))
    num_rounds = max((row["round"] for row in rows), default=0)
    if not num_rounds:
        return "<p>The best trial has not exchanged weights.</p>"
    left, cell_height = 150, max(6, min(16, 480 // len(sites)))
    cell_width = (WIDTH - left - RIGHT) / num_rounds
    row_of = {site: index for index, site in enumerate(sites)}
    cells = [f"<rect x='{left + (row['round'] - 1) * cell_width:.1f}' y='{TOP + row_of[row['site']] * cell_height}' "
             f"width='{cell_width + 0.3:.1f}' height='{cell_height}' fill='{_colour(row['alpha'])}'>"
             f"<title>{escape(row['site'])}, round {row['round']}: {row['alpha']:.3f}</title></rect>"
             for row in rows]
    every = max(1, -(-12 // cell_height))
    names = [f"<text x='{left - 8}' y='{TOP + (index + 0.75) * cell_height:.1f}' text-anchor='end'>"
             f"{escape(site)}</text>" for index, site in enumerate(sites) if index % every == 0]
    height = TOP + len(sites) * cell_height + 34
    label = f"<text x='{(left + WIDTH) / 2}' y='{height - 8}' text-anchor='middle'>round 1 to {num_rounds}</text>"
    return (f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='Alpha by site and round'>"
            + "".join(cells) + "".join(names) + label + "</svg>")


def _colour(alpha: float) -> str:
    """Return a colour from blue (alpha 0) over grey (1/2) to orange (1), told apart by the colour-blind too."""
    strength = min(1.0, abs(alpha - 0.5) * 2)
    ends = (0xE0, 0x7B, 0x00) if alpha > 0.5 else (0x1F, 0x5F, 0xBF)
    red, green, blue = (round(0xC9 + (end - 0xC9) * strength) for end in ends)
    return f"#{red:02x}{green:02x}{blue:02x}"
