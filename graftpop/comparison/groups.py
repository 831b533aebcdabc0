"""Statistics of a comparison: each variant's test accuracy over seeds, and its difference to the baseline.

Differences are paired by seed, which removes the effect of a seed on both. Arithmetic only; `rendering` shows it.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftpop.comparison.caveats import compute_warnings, pairing_warnings, schedule_warnings, trial_warnings
from graftpop.comparison.difference import Difference, paired_difference
from graftpop.settings import Settings
from graftpop.space import Space
from graftpop.study.trials import restored_row

__all__ = ["Group", "Line", "compare", "compare_trials", "published_percent", "verdict"]


@dataclass(frozen=True)
class Line:
    """One variant in one group; means are over its completed trials, None without one.

    Attributes:
        variant: name.
        n: number of completed trials with a test accuracy.
        mean: test accuracy in [0, 1].
        std: standard deviation of the test accuracy (n - 1); None for fewer than two trials.
        train_images: images trained by all peers together, including the trial's teachers.
        num_peers: peers per trial.
        epochs: epochs per peer.
        wall_s: seconds per trial.
        flops_left: FLOPs of the output network, as a share of those before filters were removed; None without removal.
        difference: to the baseline; None for the baseline and without a common seed.
        num_missing: number of trials that have not completed.
        warnings: caveats of this line, without the variant's name.
    """

    variant: str
    n: int
    mean: float | None
    std: float | None
    train_images: float | None
    num_peers: float | None
    epochs: float | None
    wall_s: float | None
    flops_left: float | None
    difference: Difference | None
    num_missing: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The variants with equal values of all other searched keys.

    Attributes:
        values: these keys and values; empty without other searched keys.
        baseline: name of the baseline variant.
        lines: one per variant, in the space's order.
    """

    values: Mapping[str, Any]
    baseline: str
    lines: tuple[Line, ...]

    @property
    def differences(self) -> dict[str, Difference]:
        """Differences by variant, for variants with one."""
        return {line.variant: line.difference for line in self.lines if line.difference is not None}


def compare(
    rows: Sequence[Mapping[str, Any]],
    *,
    variants: Sequence[str],
    baseline: str,
    seeds: Sequence[Any],
    searched: Sequence[str],
    settings_of: Callable[[Mapping[str, Any]], Settings],
) -> list[Group]:
    """Return one group per combination of the rows' values beside variant and seed.

    Args:
        rows: of `trials.parquet`.
        variants: names, in the order of the lines.
        baseline: name of the baseline variant.
        seeds: seeds that every variant must complete; [None] if seeds are not searched.
        searched: searched keys of the space, possibly with variant and seed.
        settings_of: from a sample with a variant to its settings.
    """
    others = [key for key in searched if key not in ("variant", "seed")]
    by_values: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_values.setdefault(repr([row[key] for key in others]), []).append(row)
    groups = []
    for members in by_values.values():
        values = {key: members[0][key] for key in others}
        settings = {variant: settings_of({"variant": variant, **values}) for variant in variants}
        completed = {variant: _completed(members, variant) for variant in variants}
        lines = (_line(variant, baseline, completed, settings, seeds) for variant in variants)
        groups.append(Group(values, baseline, tuple(lines)))
    return groups


def compare_trials(rows: Sequence[Mapping[str, Any]], space: Space) -> list[Group]:
    """Return the groups of a study's trials.

    Args:
        rows: of `trials.parquet` or from `Trial.row`.
        space: with variants and a baseline.
    """
    assert space.baseline is not None, "compare_trials: needs a space with variants"
    domains = {key: domain for key, domain in space.domains.items() if key != "variant"}
    restored = [restored_row(row, domains) for row in rows]
    seeds = domains["seed"].every_value() if "seed" in domains else [None]
    return compare(
        restored,
        variants=list(space.variants),
        baseline=space.baseline,
        seeds=seeds,
        searched=list(domains),
        settings_of=space.resolve,
    )


def published_percent(
    group: Group, variant: str, published: Mapping[str, Any] | None
) -> list[tuple[float, float | None]]:
    """Return the published test accuracies of a variant in a group, in percent, each with its std or None.

    A figure without values of searched keys belongs to every group.
    """
    entries = published["accuracy"] if published else []
    return [
        (entry["percent"], entry.get("std"))
        for entry in entries
        if entry["variant"] == variant
        and all(
            group.values.get(key) == value for key, value in entry.items() if key not in ("variant", "percent", "std")
        )
    ]


def verdict(group: Group) -> str:
    """Return a sentence on the position of a group's intervals relative to 0."""
    sides: dict[str, list[str]] = {"is above 0 for": [], "is below 0 for": [], "includes 0 for": []}
    for variant, difference in group.differences.items():
        if difference.interval is not None:
            low, high = difference.interval
            side = "is above 0 for" if low > 0 else "is below 0 for" if high < 0 else "includes 0 for"
            sides[side].append(variant)
    clauses = [f"{side} {_listed(names)}" for side, names in sides.items() if names]
    without = [
        line.variant
        for line in group.lines
        if line.variant != group.baseline and (line.difference is None or line.difference.interval is None)
    ]
    sentences = [f"The interval of the difference to {group.baseline} {'; it '.join(clauses)}."] if clauses else []
    if without:
        is_all = len(without) == len(group.lines) - 1
        sentences.append("There is no interval yet." if is_all else f"There is no interval for {_listed(without)}.")
    return " ".join(sentences)


def _completed(rows: Sequence[Mapping[str, Any]], variant: str) -> dict[Any, Mapping[str, Any]]:
    """Return the completed rows of a variant by seed."""
    return {
        row.get("seed"): row
        for row in rows
        if row["variant"] == variant and row["status"] == "completed" and row["test_accuracy"] is not None
    }


def _line(
    variant: str,
    baseline: str,
    completed: Mapping[str, Mapping[Any, Mapping[str, Any]]],
    settings: Mapping[str, Settings],
    seeds: Sequence[Any],
) -> Line:
    accuracies = {
        name: {seed: float(row["test_accuracy"]) for seed, row in rows.items()} for name, rows in completed.items()
    }
    own = accuracies[variant]
    difference = None if variant == baseline else paired_difference(own, accuracies[baseline])
    rows = completed[variant].values()
    num_missing = max(0, len(seeds) - len(own))
    warnings = list(trial_warnings(num_missing, len(seeds)))
    if variant != baseline:
        warnings += pairing_warnings(difference)
        warnings += compute_warnings(
            _mean(rows, "train_images"), _mean(completed[baseline].values(), "train_images"), baseline
        )
        warnings += schedule_warnings(settings[variant], settings[baseline], baseline)
    return Line(
        variant,
        len(own),
        statistics.mean(own.values()) if own else None,
        statistics.stdev(own.values()) if len(own) > 1 else None,
        _mean(rows, "train_images"),
        _mean(rows, "num_peers"),
        _mean(rows, "epochs"),
        _mean(rows, "wall_s"),
        _flops_left(rows),
        difference,
        num_missing,
        tuple(warnings),
    )


def _flops_left(rows: Iterable[Mapping[str, Any]]) -> float | None:
    shares = [row["flops_left"] / row["flops"] for row in rows if row.get("flops_left") is not None]
    return statistics.mean(shares) if shares else None


def _mean(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return float(statistics.mean(values)) if values else None


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
