"""Statistics of a comparison study: test score of each variant over seeds, and its difference from the baseline.

Differences are paired: variant minus baseline with the same seed. An effect that a seed has on both cancels.
`rendering` formats the results.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftpop.comparison.caveats import (
    compute_warnings,
    early_end_warnings,
    pairing_warnings,
    schedule_warnings,
    trial_warnings,
)
from graftpop.comparison.difference import Difference, paired_difference
from graftpop.metrics import ACCURACY, Metric
from graftpop.settings import Accounting, Settings
from graftpop.space import Space
from graftpop.study.trials import restored_row

__all__ = ["COSTS", "Group", "Line", "compare_trials", "published_percent", "verdict"]

COSTS: Mapping[str, str] = {
    "images": "images trained by all peers",
    "epochs": "epochs per peer",
    "time": "training time with one device per peer",
    "flops": "FLOPs of the output for one image",
}
"""The costs of a variant in words, by name in `Line.costs`; the first three are accountings."""

COMPARED: Mapping[Accounting, str] = {"images": "train_images", "epochs": "epochs", "time": "peer_images"}
"""The column that must be equal, by accounting: for time a count, since measured seconds vary by themselves."""


@dataclass(frozen=True)
class Line:
    """Results of one variant in one group. Means are over its completed trials; None without such a trial.

    Attributes:
        variant: name of the variant.
        n: number of completed trials with a test score.
        mean: mean test score, the primary metric of the task.
        std: sample standard deviation of the test score (n - 1); None for fewer than two trials.
        train_images: mean number of training images of all peers together, including the training of teachers.
        num_peers: mean number of peers per trial.
        epochs: mean number of epochs per peer.
        time_s: mean training time of a trial with one device per peer, in seconds.
        inference_flops: mean FLOPs of a trial's output for one image, after removal of filters.
        flops_left: FLOPs per image of the output network after removal of filters, as a share of those before; None if
            no filters were removed.
        is_equal: whether it costs as much as the baseline in the comparison's accounting.
        difference: difference from the baseline; None for the baseline and without a common seed.
        num_missing: number of planned trials that have not completed.
        warnings: warnings about this variant, each without its name.
    """

    variant: str
    n: int
    mean: float | None
    std: float | None
    train_images: float | None
    num_peers: float | None
    epochs: float | None
    time_s: float | None
    inference_flops: float | None
    flops_left: float | None
    is_equal: bool
    difference: Difference | None
    num_missing: int
    warnings: tuple[str, ...]

    @property
    def costs(self) -> dict[str, float | None]:
        """The costs by the names of `COSTS`."""
        return dict(zip(COSTS, (self.train_images, self.epochs, self.time_s, self.inference_flops), strict=True))


@dataclass(frozen=True)
class Group:
    """Results of all variants for one combination of the other searched values.

    Attributes:
        values: the other searched keys that matter, with their values; empty if only variant and seed are searched.
        baseline: name of the variant that the others are compared with.
        lines: one line per variant, in the order of the space.
        primary: the primary metric of the task.
        equal: the cost that all variants should have in common.
    """

    values: Mapping[str, Any]
    baseline: str
    lines: tuple[Line, ...]
    primary: Metric = ACCURACY
    equal: Accounting = "images"

    @property
    def texts(self) -> list[str]:
        """Each value with its key."""
        return [f"{key} = {'null' if value is None else value}" for key, value in self.values.items()]

    @property
    def ranked(self) -> list[Line]:
        """The baseline, then the other lines by their difference, the best first and those without one last."""
        return sorted(
            self.lines,
            key=lambda line: (
                line.variant != self.baseline,
                math.inf if line.difference is None else -self.primary.merit(line.difference.mean),
            ),
        )

    @property
    def front(self) -> list[Line]:
        """The Pareto front of score and FLOPs of the output: each line scores better than all with fewer FLOPs."""
        front: list[tuple[Line, float]] = []
        known = [(flops, -self.primary.merit(mean), line) for line, mean, flops in self.with_costs("flops")]
        for _, loss, line in sorted(known, key=lambda one: one[:2]):
            if not front or loss < front[-1][1]:
                front.append((line, loss))
        return [line for line, _ in front]

    @property
    def unequal(self) -> list[str]:
        """Names of the variants that cost more or less than the baseline."""
        return [line.variant for line in self.lines if not line.is_equal]

    def with_costs(self, cost: str) -> list[tuple[Line, float, float]]:
        """Return the lines with a score and a known cost, each with both."""
        return [
            (line, line.mean, value)
            for line in self.lines
            for value in [line.costs[cost]]
            if line.mean is not None and value is not None
        ]

    @property
    def known_costs(self) -> list[str]:
        """The costs, as in `COSTS`, that are known for at least two variants with scores."""
        return [cost for cost in COSTS if len(self.with_costs(cost)) > 1]

    @property
    def differences(self) -> dict[str, Difference]:
        """Differences by variant, without variants that have none."""
        return {line.variant: line.difference for line in self.lines if line.difference is not None}


def compare_trials(rows: Sequence[Mapping[str, Any]], space: Space) -> list[Group]:
    """Return the groups of a comparison study: one per combination of the searched values other than variant and seed.

    Args:
        rows: rows of `trials.parquet`, in which values of mixed types are text, or rows from `Trial.row`.
        space: space of the study, with variants and a baseline.
    """
    assert space.baseline is not None, "compare_trials: needs a space with variants"
    domains = {key: domain for key, domain in space.domains.items() if key != "variant"}
    others = [key for key in domains if key != "seed"]
    by_values: dict[str, list[Mapping[str, Any]]] = {}
    for row in (restored_row(row, domains) for row in rows):
        by_values.setdefault(repr([row[key] for key in others]), []).append(row)
    return [
        _group(_active({key: members[0][key] for key in others}, space), members, space, space.baseline)
        for members in by_values.values()
    ]


def _active(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return the searched values of a group without the keys that cannot matter, which are the same in all variants."""
    active = space.active({"variant": space.baseline, **values})
    return {key: value for key, value in active.items() if key != "variant"}


def published_percent(
    group: Group, variant: str, published: Mapping[str, Any] | None
) -> list[tuple[float, float | None]]:
    """Return the published test scores of a variant in a group, in percent, each with its std or None.

    A published score that gives no value for a searched key belongs to every group.
    """
    entries = published["scores"] if published else []
    return [
        (entry["percent"], entry.get("std"))
        for entry in entries
        if entry["variant"] == variant
        and all(
            group.values.get(key) == value for key, value in entry.items() if key not in ("variant", "percent", "std")
        )
    ]


def verdict(group: Group) -> str:
    """Return sentences: at which accounting, and for which variants, the interval is above 0, below 0 or includes 0."""
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
    at = f"At equal {group.equal}, the"
    if group.unequal:
        verb = "is" if group.equal == "time" else "are"
        at = f"{group.equal.capitalize()} {verb} not equal for {_listed(group.unequal)}. The"
    sentences = [f"{at} interval of the difference from {group.baseline} {'; it '.join(clauses)}."] if clauses else []
    if without:
        is_all = len(without) == len(group.lines) - 1
        sentences.append("There is no interval yet." if is_all else f"There is no interval for {_listed(without)}.")
    return " ".join(sentences)


def _group(values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], space: Space, baseline: str) -> Group:
    """Return the group of the trials with some values of the other searched keys."""
    settings = {variant: space.resolve({"variant": variant, **values}) for variant in space.variants}
    completed = {variant: _completed(rows, variant, space.primary.test) for variant in space.variants}
    lines = (_line(variant, baseline, completed, settings, space) for variant in space.variants)
    return Group(values, baseline, tuple(lines), space.primary, space.equal)


def _completed(rows: Sequence[Mapping[str, Any]], variant: str, test: str) -> dict[Any, Mapping[str, Any]]:
    """Return the rows of a variant's completed trials with a score in the column `test`, by seed."""
    return {
        row.get("seed"): row
        for row in rows
        if row["variant"] == variant and row["status"] == "completed" and row[test] is not None
    }


def _line(
    variant: str,
    baseline: str,
    completed: Mapping[str, Mapping[Any, Mapping[str, Any]]],
    settings: Mapping[str, Settings],
    space: Space,
) -> Line:
    """Return the results of a variant, given the completed trials and the settings of all variants by name."""
    test, accounting = space.primary.test, space.equal
    scores = {name: {seed: float(row[test]) for seed, row in rows.items()} for name, rows in completed.items()}
    own, rows = scores[variant], completed[variant].values()
    difference = None if variant == baseline else paired_difference(own, scores[baseline])
    num_seeds = len(space.domains["seed"].every_value()) if "seed" in space.domains else 1
    num_missing = max(0, num_seeds - len(own))
    early = early_end_warnings(settings[variant], [row["epochs"] for row in rows])
    warnings = [*trial_warnings(num_missing, num_seeds), *early]
    cost, of_baseline = (_mean(each, COMPARED[accounting]) for each in (rows, completed[baseline].values()))
    unequal = list(compute_warnings(accounting, cost, of_baseline, baseline))
    if variant != baseline:
        warnings += [*pairing_warnings(difference), *unequal]
        warnings += schedule_warnings(settings[variant], settings[baseline], baseline)
    return Line(
        variant,
        len(own),
        statistics.mean(own.values()) if own else None,
        statistics.stdev(own.values()) if len(own) > 1 else None,
        _mean(rows, "train_images"),
        _mean(rows, "num_peers"),
        _mean(rows, "epochs"),
        _mean(rows, "time_s"),
        _mean(rows, "inference_flops"),
        _flops_left(rows),
        not unequal,
        difference,
        num_missing,
        tuple(warnings),
    )


def _flops_left(rows: Iterable[Mapping[str, Any]]) -> float | None:
    shares = [row["flops_left"] / row["flops"] for row in rows if row.get("flops_left") is not None]
    return statistics.mean(shares) if shares else None


def _mean(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a column; None without a value, as in runs of versions without the column."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(statistics.mean(values)) if values else None


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
