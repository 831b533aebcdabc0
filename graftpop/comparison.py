"""A comparison study in figures: the test accuracy of every variant over seeds, and its difference to the baseline.

Differences are paired: variant minus baseline of the same seed, so that what a seed does to both does not count.
Arithmetic only; `comparison_page` and `progress` show it.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from graftpop.settings import Settings
from graftpop.space import Domain, Space

__all__ = ["CONFIDENCE", "Difference", "Group", "Line", "compare", "compare_trials", "paired_difference",
           "published_percent", "verdict"]

CONFIDENCE = 0.95
EQUAL_COMPUTE = 0.01
"""Share of the baseline's images by which another variant's may differ without a warning."""

SCHEDULE_KEYS = ("training.lr", "training.momentum", "training.weight_decay", "training.schedule",
                 "training.batch_size", "training.precision", "population.diversity", "swa.lr")
"""What moves accuracy by itself: variants that differ in it show more than the difference of their methods."""


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline over the seeds that both completed, as shares in [-1, 1].

    Attributes:
        n: seeds in common.
        mean: of the differences.
        interval: by Student's t at `CONFIDENCE`; None for fewer than two seeds, one point where all are equal.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """One variant in one group; means are over its completed trials and None where there is none.

    Attributes:
        variant: its name.
        n: completed trials with a test accuracy.
        mean: test accuracy in [0, 1].
        std: of the test accuracy, with n - 1; None for fewer than two trials.
        train_images: of all peers together, its teachers' training included.
        num_peers: of a trial.
        epochs: that each peer trained.
        wall_s: of a trial.
        difference: to the baseline; None for the baseline and where no seed is in common.
        num_missing: trials of the study that have not completed.
        warnings: what to know before this line is compared, each without the variant's name.
    """

    variant: str
    n: int
    mean: float | None
    std: float | None
    train_images: float | None
    num_peers: float | None
    epochs: float | None
    wall_s: float | None
    difference: Difference | None
    num_missing: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The variants under equal values of everything else that is searched.

    Attributes:
        values: those keys and values; empty where nothing else is searched.
        baseline: name of the variant that the others are compared with.
        lines: one a variant, in the space's order.
    """

    values: Mapping[str, Any]
    baseline: str
    lines: tuple[Line, ...]

    @property
    def differences(self) -> dict[str, Difference]:
        """Differences by variant, where there is one."""
        return {line.variant: line.difference for line in self.lines if line.difference is not None}


def compare(rows: Sequence[Mapping[str, Any]], *, variants: Sequence[str], baseline: str, seeds: Sequence[Any],
            searched: Sequence[str], settings_of: Callable[[Mapping[str, Any]], Settings]) -> list[Group]:
    """Return one group for each combination of the values that the rows have beside variant and seed.

    Args:
        rows: of `trials.parquet`.
        variants: names, in the order of the lines.
        baseline: the one that the others are compared with.
        seeds: that every variant shall complete; [None] where none is searched.
        searched: keys of the space; variant and seed may be among them.
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
    """Return the groups of a study's rows as its space describes them.

    Args:
        rows: of `trials.parquet`, where values of mixed kinds are text, or of `Trial.row`.
        space: one with variants and a baseline.
    """
    assert space.baseline is not None, "compare_trials: needs a space with variants"
    domains = {key: domain for key, domain in space.domains.items() if key != "variant"}
    restored = [{**row, **{key: _restore(row[key], domain) for key, domain in domains.items()}} for row in rows]
    seeds = domains["seed"].every_value() if "seed" in domains else [None]
    return compare(restored, variants=list(space.variants), baseline=space.baseline, seeds=seeds,
                   searched=list(domains), settings_of=space.settle)


def paired_difference(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> Difference | None:
    """Return values minus baseline, both by seed, over the seeds that both have; None where there is none.

        mean +- t_{(1 + CONFIDENCE) / 2, n - 1} * sd / sqrt(n)        (Student 1908, The probable error of a mean)
    """
    differences = [value - baseline[seed] for seed, value in values.items() if seed in baseline]
    n = len(differences)
    if not n:
        return None
    mean = statistics.mean(differences)
    if n < 2:
        return Difference(n, mean, None)
    error = statistics.stdev(differences) / math.sqrt(n)
    if error == 0:
        return Difference(n, mean, (mean, mean))
    from scipy import stats

    low, high = stats.t.interval(CONFIDENCE, n - 1, loc=mean, scale=error)
    return Difference(n, mean, (float(low), float(high)))


def published_percent(group: Group, variant: str,
                      published: Mapping[str, Any] | None) -> list[tuple[float, float | None]]:
    """Return the published test accuracies of a variant under a group's values, in per cent, each with its std or None.

    A figure that names no value of a searched key is one of every group.
    """
    entries = published["accuracy"] if published else []
    return [(entry["percent"], entry.get("std")) for entry in entries
            if entry["variant"] == variant and all(group.values.get(key) == value for key, value in entry.items()
                                                   if key not in ("variant", "percent", "std"))]


def verdict(group: Group) -> str:
    """Return in words where the intervals of a group lie."""
    sides: dict[str, list[str]] = {"lies above 0 for": [], "lies below 0 for": [], "includes 0 for": []}
    for variant, difference in group.differences.items():
        if difference.interval is not None:
            low, high = difference.interval
            side = "lies above 0 for" if low > 0 else "lies below 0 for" if high < 0 else "includes 0 for"
            sides[side].append(variant)
    said = [f"{side} {_listed(names)}" for side, names in sides.items() if names]
    without = [line.variant for line in group.lines if line.variant != group.baseline
               and (line.difference is None or line.difference.interval is None)]
    sentences = [f"The interval of the difference to {group.baseline} {'; it '.join(said)}."] if said else []
    sentences += [f"There is no interval for {_listed(without)}."] if without else []
    return " ".join(sentences)


def _completed(rows: Sequence[Mapping[str, Any]], variant: str) -> dict[Any, Mapping[str, Any]]:
    """Return the rows of a variant that count, by seed."""
    return {row.get("seed"): row for row in rows
            if row["variant"] == variant and row["status"] == "completed" and row["test_accuracy"] is not None}


def _line(variant: str, baseline: str, completed: Mapping[str, Mapping[Any, Mapping[str, Any]]],
          settings: Mapping[str, Settings], seeds: Sequence[Any]) -> Line:
    accuracies = {name: {seed: float(row["test_accuracy"]) for seed, row in rows.items()}
                  for name, rows in completed.items()}
    own = accuracies[variant]
    difference = None if variant == baseline else paired_difference(own, accuracies[baseline])
    rows = completed[variant].values()
    num_missing = max(0, len(seeds) - len(own))
    warnings = list(_trial_warnings(num_missing, len(seeds), difference, is_baseline=variant == baseline))
    if variant != baseline:
        warnings += _compute_warnings(_mean(rows, "train_images"),
                                      _mean(completed[baseline].values(), "train_images"), baseline)
        warnings += _schedule_warnings(settings[variant], settings[baseline], baseline)
    return Line(variant, len(own), statistics.mean(own.values()) if own else None,
                statistics.stdev(own.values()) if len(own) > 1 else None,
                _mean(rows, "train_images"), _mean(rows, "num_peers"), _mean(rows, "epochs"), _mean(rows, "wall_s"),
                difference, num_missing, tuple(warnings))


def _mean(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return float(statistics.mean(values)) if values else None


def _trial_warnings(num_missing: int, num_trials: int, difference: Difference | None, *,
                    is_baseline: bool) -> Iterator[str]:
    if num_missing:
        yield f"{num_missing} of {num_trials} trials not completed"
    if is_baseline:
        return
    num_pairs = 0 if difference is None else difference.n
    if difference is None or difference.interval is None:
        yield f"{num_pairs} seed{'s' * (num_pairs != 1)} in common with the baseline, and an interval needs 2"
    elif difference.interval[0] == difference.interval[1]:
        yield f"all {num_pairs} differences are equal, so the interval has no width and says nothing of chance"


def _compute_warnings(images: float | None, of_baseline: float | None, baseline: str) -> Iterator[str]:
    if images is not None and of_baseline is not None and abs(images - of_baseline) > EQUAL_COMPUTE * of_baseline:
        yield (f"compute is not equal: {images:,.0f} images trained against {of_baseline:,.0f} of {baseline} "
               f"({100 * (images / of_baseline - 1):+.3g} %)")


def _schedule_warnings(settings: Settings, of_baseline: Settings, baseline: str) -> Iterator[str]:
    pairs = ((key, _value(settings, key), _value(of_baseline, key)) for key in SCHEDULE_KEYS)
    differing = [f"{key} is {_shown(value)} and not {_shown(other)}" for key, value, other in pairs if value != other]
    if differing:
        yield f"trained otherwise than {baseline}: {', '.join(differing)}"


def _value(settings: Settings, key: str) -> Any:
    """Return the value of a dotted key; None where its section is absent."""
    return reduce(lambda section, name: None if section is None else getattr(section, name), key.split("."), settings)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _restore(value: Any, domain: Domain) -> Any:
    """Return the value of a domain that a table's cell stands for: values of mixed kinds are text there."""
    return next((choice for choice in domain.every_value() if value in (choice, str(choice))), value)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
