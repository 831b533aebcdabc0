"""Draw the differences of a comparison: each variant minus the baseline, with its 95 % interval and its seeds.

    python benchmarks/evidence.py ENTRY [--out FOLDER] [--variants NAME...] [--baseline NAME] [--ensembles NAME...]

ENTRY is a folder of `benchmarks/` with `space.yaml` and `results.jsonl`, which `summary.py --trials` writes. Its
pictures are NAME-light.svg and NAME-dark.svg, with the name of the space, or that of `--name`. Needs matplotlib.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from graftpop.comparison import Group, compare_trials
from graftpop.comparison.groups import Line
from graftpop.space import load_space

THEMES = {
    "light": {"ink": "#1b1f24", "faint": "#5c656f", "line": "#d0d7de", "win": "#1a7f37", "loss": "#a34700"},
    "dark": {"ink": "#e6edf3", "faint": "#9aa4af", "line": "#3d444d", "win": "#56d364", "loss": "#ffa657"},
}
INCHES_PER_LINE, LEAST_INCHES, WIDTH = 0.27, 1.0, 8.6


def group_of(
    entry: Path, variants: Sequence[str] = (), baseline: str | None = None, *, ensembles: Sequence[str] = ()
) -> tuple[str, Group]:
    """Return the name of an entry's study and its comparison, with some variants beside the baseline or with all.

    Args:
        entry: folder with `space.yaml` and `results.jsonl`.
        variants: names of variants.
        baseline: the variant that the others are compared with; None: that of the space.
        ensembles: names of variants whose ensembles are added, each as a variant of its own.
    """
    space = load_space(entry / "space.yaml")
    if baseline is not None:
        space = replace(space, baseline=baseline)
    rows = [json.loads(line) for line in (entry / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    rows += [_of_ensemble(row) for row in rows if row["variant"] in ensembles]
    names = {f"{name}, ensemble": name for name in ensembles}
    space = replace(space, variants={**space.variants, **{new: space.variants[name] for new, name in names.items()}})
    (group,) = compare_trials(rows, space)
    if variants:
        kept = {group.baseline, *variants, *names}
        group = replace(group, lines=tuple(line for line in group.lines if line.variant in kept))
    return space.resolve().name, group


def _of_ensemble(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a trial whose output is the ensemble of all its peers."""
    score = next(name for name in row if name.startswith("ensemble_test_"))
    of_all = {score.removeprefix("ensemble_"): row[score], "inference_flops": row["num_peers"] * row["inference_flops"]}
    return row | {"variant": f"{row['variant']}, ensemble"} | of_all


def draw(group: Group, theme: dict[str, str], file: Path) -> None:
    """Draw one comparison into an SVG file without a background."""
    lines = [line for line in group.lines if line.mean is not None]
    baseline = next(line for line in lines if line.variant == group.baseline)
    others = sorted((line for line in lines if line.difference), key=_mean_difference)
    style: dict[str, Any] = {
        "text.color": theme["ink"],
        "axes.edgecolor": theme["line"],
        "xtick.color": theme["faint"],
        "font.size": 9,
    }
    style |= {"svg.fonttype": "none", "svg.hashsalt": "graftpop", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(WIDTH, LEAST_INCHES + INCHES_PER_LINE * len(others)))
        axes.axvline(0, color=theme["faint"], linewidth=1)
        for height, line in enumerate(others):
            _draw_line(axes, height, line, theme)
        axes.set_yticks(range(len(others)), [line.variant for line in others], color=theme["ink"])
        axes.tick_params(length=0)
        axes.grid(axis="x", color=theme["line"], linewidth=0.5)
        axes.set_axisbelow(True)
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel(f"test score minus that of {group.baseline} ({_score(baseline)}), points", color=theme["faint"])
        figure.savefig(file, transparent=True, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


def _mean_difference(line: Line) -> float:
    assert line.difference is not None
    return line.difference.mean


def _draw_line(axes: Any, height: int, line: Line, theme: dict[str, str]) -> None:
    assert line.difference is not None
    mean = 100 * line.difference.mean
    low, high = (100 * bound for bound in line.difference.interval or (line.difference.mean,) * 2)
    color = theme["win"] if low > 0 else theme["loss"] if high < 0 else theme["faint"]
    seeds = [100 * value for value in line.difference.by_seed.values()]
    axes.plot([low, high], [height, height], color=color, linewidth=2.2, solid_capstyle="butt")
    axes.plot(seeds, [height] * len(seeds), "|", color=theme["ink"], markersize=6, alpha=0.55)
    axes.plot(mean, height, "o", color=color, markersize=5.5)
    axes.annotate(
        _score(line),
        (1.01, height),
        xycoords=("axes fraction", "data"),
        va="center",
        color=theme["faint"],
        annotation_clip=False,
    )


def _score(line: Line) -> str:
    assert line.mean is not None
    return f"{100 * line.mean:.1f} %" + (f" ± {100 * line.std:.1f}" if line.std is not None else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--baseline", metavar="NAME", help="default: that of the space")
    parser.add_argument("--ensembles", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--name", help="of the pictures; default: that of the space")
    options = parser.parse_args(arguments)
    name, group = group_of(options.entry, options.variants, options.baseline, ensembles=options.ensembles)
    for mode, theme in THEMES.items():
        file = options.out / f"{options.name or name}-{mode}.svg"
        draw(group, theme, file)
        print(file)


if __name__ == "__main__":
    main()
