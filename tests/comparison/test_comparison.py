"""The comparison of variants: statistics against closed forms and scipy, warnings, and rendering."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from html import unescape
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from scipy import stats

from graftpop.comparison.difference import paired_difference
from graftpop.comparison.groups import Group, Line, compare_trials, published_percent, verdict
from graftpop.comparison.rendering import comparison_html, comparison_markdown, comparison_tables
from graftpop.metrics import Metric
from graftpop.reporting.differences import paired_differences
from graftpop.settings import Accounting
from graftpop.space import Space
from graftpop.space.domains import Domain

VARIANTS: dict[str, dict[str, Any]] = {"single": {}, "grafting": {"graft": {}}, "noise": {"graft": {"source": "noise"}}}
PUBLISHED = {
    "source": "Table <1> of a paper",
    "scores": [{"variant": "single", "percent": 92.83}, {"variant": "grafting", "percent": 93.94, "std": 0.25}],
}


def row(variant: str, seed: int, test_accuracy: float | None, **other: Any) -> dict[str, Any]:
    """Return a row of `trials.parquet`."""
    status = "failed" if test_accuracy is None else "completed"
    return {
        "trial_id": f"{variant}-{seed}",
        "status": status,
        "variant": variant,
        "seed": seed,
        "val_accuracy": 0.5,
        "test_accuracy": test_accuracy,
        "ensemble_test_accuracy": 0.5,
        "num_peers": 2,
        "epochs": 10,
        "train_images": 1000,
        "peer_images": 500,
        "wall_s": 90.0,
        "time_s": 60.0,
        "flops": 8_000_000,
        "flops_left": None,
        "inference_flops": 8_000_000,
    } | other


def rows_of(accuracies: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """Return rows with seeds 0, 1, ... from each variant's test accuracies; None is a failed trial."""
    return [row(variant, seed, value) for variant, values in accuracies.items() for seed, value in enumerate(values)]


def groups_of(
    rows: Sequence[Mapping[str, Any]],
    variants: Mapping[str, Mapping[str, Any]] = VARIANTS,
    searched: Mapping[str, Sequence[Any]] | None = None,
    num_seeds: int = 3,
    equal: Accounting = "images",
    task: Mapping[str, Any] | None = None,
) -> list[Group]:
    """Return the groups of trials, with the values of the keys that are searched besides variant and seed."""
    values = {"variant": list(variants), **(searched or {}), "seed": range(num_seeds)}
    domains = {key: Domain("grid", tuple(every)) for key, every in values.items()}
    return compare_trials(rows, Space({"task": task or {}}, domains, variants, "single", equal))


def group_of(accuracies: Mapping[str, Sequence[float | None]]) -> Group:
    (group,) = groups_of(rows_of(accuracies))
    return group


def line_of(group: Group, variant: str) -> Line:
    (line,) = (line for line in group.lines if line.variant == variant)
    return line


STUDY = {"single": [0.90, 0.91, 0.92], "grafting": [0.92, 0.94, 0.93], "noise": [0.90, 0.92, 0.91]}


def has_phrases(warning: str, *phrases: str) -> bool:
    return all(phrase in warning for phrase in phrases)


# statistics


def test_line_has_mean_and_standard_deviation_over_completed_seeds() -> None:
    line = line_of(group_of(STUDY), "single")
    assert (line.n, line.num_missing) == (3, 0)
    assert line.mean == pytest.approx(0.91)
    assert line.std == pytest.approx(0.01)  # sqrt((1 + 0 + 1) / 2) hundredths


def test_paired_interval_equals_the_closed_form() -> None:
    difference = line_of(group_of(STUDY), "grafting").difference  # 2, 3 and 1 points: mean 2, sd 1
    assert difference is not None
    assert difference.interval is not None
    half = 4.302652729911275 * 0.01 / math.sqrt(3)  # t of 0.975 with 2 degrees of freedom, from the tables
    assert difference.n == 3
    assert difference.mean == pytest.approx(0.02)
    assert difference.interval == pytest.approx((0.02 - half, 0.02 + half))


@given(st.lists(st.tuples(*[st.integers(0, 10_000)] * 2), min_size=2, max_size=8), st.sampled_from([0.95, 0.975]))
def test_paired_interval_equals_scipys_t_test(pairs: list[tuple[int, int]], confidence: float) -> None:
    first, second = (dict(enumerate(np.array(values) / 10_000)) for values in zip(*pairs, strict=True))
    difference = paired_difference(first, second, confidence)
    assert difference is not None
    assert difference.interval is not None
    differences = [first[seed] - second[seed] for seed in first]
    if len({a - b for a, b in pairs}) > 1:
        expected = stats.ttest_1samp(differences, 0.0).confidence_interval(confidence)
        assert difference.interval == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)
    assert difference.mean == pytest.approx(np.mean(differences), abs=1e-12)
    low, high = difference.interval
    assert low <= difference.mean <= high


@given(st.lists(st.integers(0, 1024), min_size=2, max_size=6), st.integers(-1024, 1024))
def test_effect_of_a_seed_on_both_variants_cancels(values: list[int], shift: int) -> None:
    """Accuracies are multiples of 1/1024, so differences are exact."""
    own = {seed: value / 1024 for seed, value in enumerate(values)}
    moved = {seed: value + seed * shift / 1024 for seed, value in own.items()}
    baseline = dict.fromkeys(own, 0.5)
    moved_baseline = {seed: 0.5 + seed * shift / 1024 for seed in own}
    assert paired_difference(own, baseline) == paired_difference(moved, moved_baseline)


def test_swapping_variant_and_baseline_mirrors_the_interval() -> None:
    first, second = {0: 0.5, 1: 0.75, 2: 0.25}, {0: 0.25, 1: 0.25, 2: 0.125}
    difference, swapped = paired_difference(first, second), paired_difference(second, first)
    assert difference is not None
    assert swapped is not None
    assert difference.interval is not None
    assert swapped.interval == pytest.approx((-difference.interval[1], -difference.interval[0]))
    assert swapped.mean == -difference.mean


def test_interval_of_two_seeds_uses_one_degree_of_freedom() -> None:
    difference = paired_difference({0: 0.75, 1: 0.5}, {0: 0.25, 1: 0.25})  # 1/2 and 1/4: mean 3/8, error 1/8
    assert difference is not None
    half = 12.706204736432095 / 8  # t of 0.975 with 1 degree of freedom
    assert difference.interval == pytest.approx((0.375 - half, 0.375 + half))


def test_interval_of_equal_differences_has_zero_width_and_a_warning() -> None:
    group = group_of({"single": [0.25, 0.5, 0.75], "grafting": [0.375, 0.625, 0.875], "noise": [0.25, 0.5, 0.75]})
    grafting, noise = line_of(group, "grafting"), line_of(group, "noise")
    assert grafting.difference is not None
    assert noise.difference is not None
    assert (grafting.difference.mean, grafting.difference.interval) == (0.125, (0.125, 0.125))
    assert noise.difference.interval == (0.0, 0.0)
    (warning,) = grafting.warnings
    assert has_phrases(warning, "all 3 differences", "zero width")
    assert re.findall(r"(above 0|below 0|includes 0) for ([\w ,]+)", verdict(group)) == [
        ("above 0", "grafting"),
        ("includes 0", "noise"),
    ]


def test_one_seed_has_a_difference_without_an_interval() -> None:
    (group,) = groups_of(rows_of({"single": [0.5], "grafting": [0.75], "noise": [0.5]}), num_seeds=1)
    line = line_of(group, "grafting")
    assert (line.n, line.std, line.num_missing) == (1, None, 0)
    assert line.difference is not None
    assert (line.difference.n, line.difference.mean, line.difference.interval) == (1, 0.25, None)
    (warning,) = line.warnings
    assert has_phrases(warning, "1 seed in common", "needs 2")
    assert line_of(group, "single").warnings == ()
    assert "no interval yet" in verdict(group)


def test_standard_deviation_of_two_trials_has_one_degree_of_freedom() -> None:
    line = line_of(group_of({"single": [0.5, 0.75, None], "grafting": [0.5, None, None]}), "single")
    assert (line.n, line.mean, line.std) == (2, 0.625, pytest.approx(0.125 * math.sqrt(2)))


def test_completed_trial_without_a_test_accuracy_does_not_count() -> None:
    rows = rows_of(STUDY)
    rows[0] |= {"test_accuracy": None}
    (group,) = groups_of(rows)
    line = line_of(group, "single")
    assert (line.n, line.num_missing) == (2, 1)
    assert line.mean == pytest.approx(0.915)


def test_only_seeds_that_both_completed_are_paired() -> None:
    group = group_of({"single": [None, 0.5, 0.5], "grafting": [0.9, 0.75, 0.625], "noise": [0.5, None, None]})
    grafting, noise = line_of(group, "grafting"), line_of(group, "noise")
    assert grafting.n == 3
    assert grafting.difference is not None
    assert (grafting.difference.n, grafting.difference.mean) == (2, pytest.approx(0.1875))
    assert noise.difference is None
    missing, unpaired = noise.warnings
    assert "2 of 3 trials" in missing
    assert has_phrases(unpaired, "0 seeds in common", "needs 2")
    (missing,) = line_of(group, "single").warnings
    assert "1 of 3 trials" in missing


@pytest.mark.parametrize("status", ["pending", "running", "stopped", "failed", "interrupted"])
def test_trial_that_has_not_completed_is_missing(status: str) -> None:
    rows = rows_of(STUDY)
    rows[3] |= {"status": status}
    (group,) = groups_of(rows)
    line = line_of(group, "grafting")
    assert (line.n, line.num_missing) == (2, 1)
    assert line.mean == pytest.approx(0.935)


def test_variant_without_trials_has_an_empty_line() -> None:
    (group,) = groups_of(rows_of({"single": STUDY["single"], "noise": STUDY["noise"]}))
    assert [line.variant for line in group.lines] == list(VARIANTS)
    line = line_of(group, "grafting")
    assert (line.n, line.mean, line.std, line.train_images, line.difference) == (0, None, None, None, None)
    assert line.num_missing == 3


def test_costs_are_means_over_the_completed_trials() -> None:
    rows = [
        row("single", 0, 0.5, time_s=10.0, train_images=100, inference_flops=300),
        row("single", 1, 0.5, time_s=20.0, train_images=200, inference_flops=500),
        row("single", 2, None, time_s=90.0, train_images=900, inference_flops=900),
    ]
    (group,) = groups_of(rows)
    line = line_of(group, "single")
    assert (line.time_s, line.train_images, line.num_peers, line.epochs) == (15.0, 150.0, 2.0, 10.0)
    assert line.costs == {"images": 150.0, "epochs": 10.0, "time": 15.0, "flops": 400.0}


def test_mean_of_a_column_leaves_out_trials_without_a_value() -> None:
    rows = [row("single", 0, 0.5, time_s=10.0), row("single", 1, 0.5, time_s=None)]
    (group,) = groups_of(rows)
    assert line_of(group, "single").time_s == 10.0


def test_flops_left_is_the_mean_share_of_the_trials_flops() -> None:
    rows = [
        row("single", 0, 0.5, flops=800, flops_left=None),
        row("grafting", 0, 0.5, flops=800, flops_left=200),
        row("grafting", 1, 0.5, flops=400, flops_left=300),
        row("grafting", 2, None, flops=100, flops_left=100),
    ]
    (group,) = groups_of(rows)
    assert [line_of(group, variant).flops_left for variant in VARIANTS] == [None, 0.5, None]
    head, single, grafting, noise = cells_of(comparison_html([group], None))
    place = head.index("FLOPs left, %")
    assert [cells[place] for cells in (single, grafting, noise)] == ["", "50.0", ""]
    assert "FLOPs left, %" not in cells_of(comparison_html([group_of(STUDY)], None))[0]


# groups


def test_each_combination_of_other_searched_values_is_a_group() -> None:
    rows = [
        row(variant, seed, accuracy + 0.01 * peers, **{"population.num_peers": peers})
        for peers in (2, 4)
        for variant, accuracies in STUDY.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    groups = groups_of(rows, searched={"population.num_peers": [2, 4]})
    assert [group.values for group in groups] == [{"population.num_peers": 2}, {"population.num_peers": 4}]
    for group in groups:
        assert line_of(group, "grafting").n == 3
        assert line_of(group, "single").mean == pytest.approx(0.91 + 0.01 * group.values["population.num_peers"])
        assert [line.variant for line in group.lines] == list(VARIANTS)


def test_settings_of_a_line_come_from_its_variant_and_group() -> None:
    rows = [trial | {"training.epochs": planned} for planned in (10, 20) for trial in rows_of(STUDY)]  # all ended at 10
    variants = VARIANTS | {"noise": {"training": {"patience": 5}}}
    complete, early = groups_of(rows, variants, searched={"training.epochs": [10, 20]})
    assert [line.warnings for line in complete.lines] == [(), (), ()]
    single, grafting, noise = (line.warnings for line in early.lines)
    assert single == grafting == ()
    assert has_phrases(noise[0], "training.patience", "10 of 20 epochs")


def test_study_without_trials_has_no_group() -> None:
    assert groups_of([]) == []


# warnings


COMPARED: dict[Accounting, str] = {"images": "train_images", "epochs": "epochs", "time": "peer_images"}
"""The column that must be equal, by accounting."""


def compared_at(equal: Accounting, own: float | None, **others: Any) -> Group:
    """Return a comparison whose variant grafting costs `own` in the accounting, where the others cost 1,000."""
    rows = [
        trial | {COMPARED[equal]: own if trial["variant"] == "grafting" else 1000}
        for trial in (
            row(variant, seed, value, **others) for variant in STUDY for seed, value in enumerate(STUDY[variant])
        )
    ]
    (group,) = groups_of(rows, equal=equal)
    return group


@pytest.mark.parametrize("equal", COMPARED)
@pytest.mark.parametrize(
    ("own", "numbers"),
    [
        (1000, None),
        (1010, None),
        (990, None),
        (1011, ("1,011", "1,000", "(+1.1 %)")),
        (989, ("989", "1,000", "(-1.1 %)")),
        (2000, ("2,000", "1,000", "(+100 %)")),
    ],
)
def test_more_than_one_percent_difference_in_the_accounting_is_a_warning(
    own: int, numbers: tuple[str, ...] | None, equal: Accounting
) -> None:
    group = compared_at(equal, own)
    warnings = line_of(group, "grafting").warnings
    assert len(warnings) == (numbers is not None)
    assert all(has_phrases(warning, f"{equal} ", "not equal", "single", *(numbers or ())) for warning in warnings)
    assert line_of(group, "noise").warnings == ()
    assert group.unequal == ["grafting"] * (numbers is not None)


@pytest.mark.parametrize("equal", COMPARED)
def test_costs_of_other_accountings_may_differ(equal: Accounting) -> None:
    others = {column: 77.0 for other, column in COMPARED.items() if other != equal}
    rows = [
        trial | (others if trial["variant"] == "grafting" else {}) | {"time_s": 7.0 * trial["seed"], "wall_s": 1.0}
        for trial in rows_of(STUDY)
    ]
    (group,) = groups_of(rows, equal=equal)
    assert [line.warnings for line in group.lines] == [(), (), ()]


def test_warning_compares_means_over_the_seeds() -> None:
    rows = [trial | {"epochs": 10 + trial["seed"] * (trial["variant"] == "grafting")} for trial in rows_of(STUDY)]
    (group,) = groups_of(rows, equal="epochs")  # 10, 11 and 12 against 10
    (warning,) = line_of(group, "grafting").warnings
    assert has_phrases(warning, "11 epochs", "10 for single", "(+10 %)")
    rows[3] |= {"epochs": 10.5}
    (group,) = groups_of(rows, equal="epochs")
    assert "11.2 epochs" in line_of(group, "grafting").warnings[0]


def test_rows_of_an_earlier_version_have_no_device_time_and_no_warning() -> None:
    new = ("peer_images", "time_s", "inference_flops")
    rows = [{key: value for key, value in trial.items() if key not in new} for trial in rows_of(STUDY)]
    (group,) = groups_of(rows, equal="time")
    line = line_of(group, "grafting")
    assert line.costs == {"images": 1000.0, "epochs": 10.0, "time": None, "flops": None}
    assert group.unequal == []
    assert all(line.warnings == () for line in group.lines)
    head, single, *_ = cells_of(comparison_html([group], None))
    assert head == [name.removesuffix(" (equal)") for name in HEAD if "time" not in name and "FLOPs" not in name]
    assert single == SINGLE[:8]
    assert re.findall("costs/0/([a-z]+)", comparison_html([group], None)) == ["images", "epochs"]


@pytest.mark.parametrize(
    ("equal", "head", "note"),
    [
        ("images", "images trained, millions", "all peers together"),
        ("epochs", "epochs per peer", "each network"),
        ("time", "time, one device per peer", "one device per peer"),
    ],
)
def test_table_verdict_and_note_name_the_accounting(equal: Accounting, head: str, note: str) -> None:
    group = compared_at(equal, 1000)
    heads, *_ = cells_of(comparison_html([group], None))
    assert [name for name in heads if "equal)" in name] == [f"{head} (equal)"]
    assert verdict(group).startswith(f"At equal {equal}, the interval")
    assert has_phrases(comparison_markdown([group], None), f"| {head} (equal) |", f"at equal {equal}", note)
    unequal = compared_at(equal, 1011)
    heads, *_ = cells_of(comparison_html([unequal], None))
    assert [name for name in heads if "equal)" in name] == [f"{head} (unequal)"]
    assert re.match(rf"{equal.capitalize()} (is|are) not equal for grafting\. The interval", verdict(unequal))
    output = StringIO()
    for part in comparison_tables([group], None):
        Console(file=output, width=100).print(part)
    above, below = output.getvalue().splitlines()[1:3]
    assert (above.split(), below[: len(above.rstrip())].split()[-1]) == (["equal"], equal)  # right above the heading
    assert has_phrases(output.getvalue(), f"At equal {equal}", note)


def test_trials_that_patience_ended_are_a_warning() -> None:
    epochs = {"single": (10, 10, 10), "grafting": (6, 10, 5), "noise": (4, 4, 4)}
    patient = {"training": {"epochs": 10, "patience": 2}}
    rows = [trial | {"epochs": epochs[trial["variant"]][trial["seed"]]} for trial in rows_of(STUDY)]
    variants = {"single": patient, "grafting": patient, "noise": {"training": {"epochs": 4}}}
    (group,) = groups_of(rows, variants=variants, equal="epochs")
    assert line_of(group, "single").warnings == ()
    early, unequal = line_of(group, "grafting").warnings
    assert has_phrases(early, "training.patience", "2 of 3 trials", "7 of 10 epochs")
    assert has_phrases(unequal, "7 epochs", "10 for single", "(-30 %)")
    assert not any("patience" in warning for warning in line_of(group, "noise").warnings)
    assert line_of(group, "grafting").difference is not None
    (group,) = groups_of([trial | {"epochs": 8} for trial in rows], variants=variants)
    assert has_phrases(line_of(group, "single").warnings[0], "3 of 3 trials", "8 of 10 epochs")


def test_ensemble_costs_all_its_networks_at_inference() -> None:
    rows = [
        trial | {"inference_flops": 24_500_000 if trial["variant"] == "grafting" else 8_000_000}
        for trial in rows_of(STUDY)
    ]
    head, single, grafting, _ = cells_of(comparison_html(groups_of(rows), None))
    place = head.index("inference FLOPs, millions")
    assert (single[place], grafting[place]) == ("8", "24.5")


def test_metric_to_minimize_is_compared_at_its_accounting() -> None:
    rows = [trial | {"test_rmse": 4.0 - trial["test_accuracy"], "epochs": 10} for trial in rows_of(STUDY)]
    rows = [trial | ({"epochs": 20} if trial["variant"] == "noise" else {}) for trial in rows]
    (group,) = groups_of(rows, equal="epochs", task={"name": "python:a.Task", "metrics": {"rmse": "min"}})
    difference = line_of(group, "grafting").difference
    assert difference is not None
    assert difference.mean == pytest.approx(-0.02)
    assert group.unequal == ["noise"]
    text = comparison_markdown([group], None)
    assert has_phrases(text, "Epochs are not equal for noise", "lower rmse is better", "noise: epochs are not equal")


@pytest.mark.parametrize(
    ("settings", "differences"),
    [
        ({"training": {"lr": 0.05}}, [("training.lr", "0.05", "0.1")]),
        ({"training": {"momentum": 0.0}}, [("training.momentum", "0.0", "0.9")]),
        ({"training": {"weight_decay": 0.0}}, [("training.weight_decay", "0.0", "0.0005")]),
        ({"training": {"schedule": "cosine"}}, [("training.schedule", "cosine", "step")]),
        ({"training": {"batch_size": 64}}, [("training.batch_size", "64", "128")]),
        ({"training": {"precision": "float32"}}, [("training.precision", "float32", "auto")]),
        ({"task": {"label_smoothing": 0.1}}, [("task.label_smoothing", "0.1", "0.0")]),
        ({"data": {"label_noise": 0.2}}, [("data.label_noise", "0.2", "0.0")]),
        ({"augmentation": {"policy": "randaugment"}}, [("augmentation.policy", "randaugment", "none")]),
        ({"model": {"pretrained": True}}, [("model.pretrained", "True", "False")]),
        ({"population": {"diversity": "learning_rate"}}, [("population.diversity", "learning_rate", "none")]),
        ({"swa": {"lr": 0.01}}, [("swa.lr", "0.01", "null")]),
        ({"training": {"lr": 0.05}, "swa": {"lr": 0.01}}, [("training.lr", "0.05", "0.1"), ("swa.lr", "0.01", "null")]),
        ({"training": {"total_epochs": 100}, "population": {"num_peers": 4}, "swa": {}}, []),
    ],
)
def test_different_training_than_the_baseline_is_a_warning(
    settings: dict[str, Any], differences: list[tuple[str, str, str]]
) -> None:
    (group,) = groups_of(rows_of(STUDY), variants=VARIANTS | {"grafting": settings})
    warnings = line_of(group, "grafting").warnings
    assert len(warnings) == bool(differences)
    assert re.findall(r"(\w+\.\w+) is (\S+), not ([\w.]+)", " ".join(warnings)) == differences
    assert all("single" in warning for warning in warnings)
    assert line_of(group, "single").warnings == ()


# verdict


def test_verdict_sorts_variants_by_their_intervals_sign() -> None:
    variants: dict[str, dict[str, Any]] = {name: {} for name in ("single", "up", "higher", "down", "level", "lost")}
    accuracies: dict[str, list[float | None]] = {
        "single": [0.5, 0.5, 0.5],
        "up": [0.6, 0.601, 0.602],
        "higher": [0.7, 0.701, 0.702],
        "down": [0.4, 0.401, 0.4],
        "level": [0.4, 0.5, 0.6],
        "lost": [0.9, None, None],
    }
    (group,) = groups_of(rows_of(accuracies), variants=variants)
    assert re.findall(r"(above 0|below 0|includes 0|no interval) for ([\w ]+)", verdict(group)) == [
        ("above 0", "up and higher"),
        ("below 0", "down"),
        ("includes 0", "level"),
        ("no interval", "lost"),
    ]


def test_published_accuracies_are_found_by_variant_and_searched_values() -> None:
    published = {
        "source": "a paper",
        "scores": [
            {"variant": "grafting", "model.name": "resnet20", "percent": 91.5},
            {"variant": "grafting", "model.name": "resnet32", "percent": 93.25, "std": 0.5},
            {"variant": "grafting", "percent": 90.0},
        ],
    }
    names = ("resnet20", "resnet32", "resnet56")
    rows = [row("grafting", 0, 0.5, **{"model.name": name}) for name in names]
    small, middle, large = groups_of(rows, searched={"model.name": names})
    assert published_percent(small, "grafting", published) == [(91.5, None), (90.0, None)]
    assert published_percent(middle, "grafting", published) == [(93.25, 0.5), (90.0, None)]
    assert published_percent(large, "grafting", published) == [(90.0, None)]
    assert published_percent(large, "noise", published) == []
    assert published_percent(large, "grafting", None) == []


# rendering


def drawn_differences(group: Group) -> Any:
    """Return the traces of the figure: one dot per seed, and the means."""
    plot = paired_differences(group).plot
    assert plot is not None
    return plot.data


def cells_of(html: str) -> list[list[str]]:
    """Return the texts of a table's cells, row by row, with hyphens for minus signs."""
    return [
        [unescape(text).replace("\u2212", "-") for text in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", tr)]
        for tr in re.findall(r"<tr>(.*?)</tr>", html)
    ]


HEAD = [
    "variant",
    "test accuracy, %",
    "difference, points",
    "95 % interval",
    "n",
    "images trained, millions (equal)",
    "peers",
    "epochs per peer",
    "time, one device per peer",
    "inference FLOPs, millions",
]
SINGLE = ["single", "91.00 \u00b1 1.00", "baseline", "", "3", "0.001", "2", "10", "0:01:00", "8"]
GRAFTING = ["grafting", "93.00 \u00b1 1.00", "+2.00", "-0.48 to +4.48", "3", "0.001", "2", "10", "0:01:00", "8"]


def test_page_has_one_row_per_variant_in_percent_and_points() -> None:
    head, single, grafting, noise = cells_of(comparison_html([group_of(STUDY)], None))
    assert head == HEAD
    assert single == SINGLE
    assert grafting == GRAFTING
    assert noise[2:4] == ["+0.00", "-2.48 to +2.48"]


def test_rows_follow_the_differences_after_the_baseline() -> None:
    accuracies: dict[str, list[float | None]] = {"low": [0.4], "single": [0.5], "failed": [None], "high": [0.6]}
    (group,) = groups_of(rows_of(accuracies), variants={name: {} for name in accuracies}, num_seeds=1)
    order = ["single", "high", "low", "failed"]
    assert [cells[0] for cells in cells_of(comparison_html([group], None))[1:]] == order
    lines = comparison_markdown([group], None).splitlines()[2:6]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == order
    assert drawn_differences(group)[1].y == ("high", "low")
    minimized = dataclasses.replace(group, primary=Metric("rmse", "min"))
    assert [line.variant for line in minimized.ranked] == ["single", "low", "high", "failed"]


def test_page_is_well_formed_and_its_headings_have_a_scope() -> None:
    html = comparison_html([group_of(STUDY)], PUBLISHED)
    page = ElementTree.fromstring(f"<body>{html}</body>")
    assert page.find(".//table/caption") is not None
    assert [head.get("scope") for head in page.iter("th")] == ["col"] * 11 + ["row"] * 3
    figures = [place.get("data-figure") for place in page.iter("figure")]
    assert figures == ["differences/0", *(f"costs/0/{cost}" for cost in ("images", "epochs", "time", "flops"))]


def test_variant_names_are_escaped() -> None:
    variants: dict[str, dict[str, Any]] = {name: {} for name in ("single", "a<b")}
    html = comparison_html(groups_of(rows_of({"single": [0.5], "a<b": [0.5]}), variants=variants, num_seeds=1), None)
    assert "<th scope='row'>a&lt;b</th>" in html
    assert "a<b" not in html


def test_difference_that_rounds_to_0_has_no_minus_sign() -> None:
    group = group_of({"single": [0.5, 0.5, 0.5], "grafting": [0.5 - 1e-9, 0.5, 0.5], "noise": [0.5, 0.5, 0.5]})
    assert cells_of(comparison_html([group], None))[2][2:4] == ["+0.00", "+0.00 to +0.00"]


def test_published_accuracies_have_a_column_and_a_source() -> None:
    html = comparison_html([group_of(STUDY)], PUBLISHED)
    assert [line[-1] for line in cells_of(html)] == ["published, %", "92.83", "93.94 \u00b1 0.25", ""]
    assert "Published: Table &lt;1&gt; of a paper" in html


def test_figure_shows_each_difference_with_interval_and_seeds() -> None:
    variants: dict[str, dict[str, Any]] = {name: {} for name in ("single", "up", "once")}
    (group,) = groups_of(rows_of({"single": [0.5, 0.5], "up": [0.6, 0.601], "once": [0.5, None]}), variants=variants)
    seeds, means = drawn_differences(group)
    assert list(zip(seeds.y, seeds.customdata, seeds.x, strict=True)) == [
        ("up", "0", pytest.approx(10.0)),
        ("up", "1", pytest.approx(10.1)),
        ("once", "0", 0.0),
    ]
    assert means.y == ("up", "once")
    assert means.x == pytest.approx((10.05, 0.0))
    assert means.error_x.array == pytest.approx((12.7062 * 0.05, 0.0), abs=1e-4)  # t of 0.975 with 1 degree of freedom
    assert 'data-figure="differences/0"' in comparison_html([group], None)


def test_figure_draws_variants_named_by_numbers_in_their_rows() -> None:
    variants: dict[str, dict[str, Any]] = {name: {} for name in ("single", "2", "8")}
    (group,) = groups_of(rows_of({"single": [0.5], "2": [0.6], "8": [0.7]}), variants=variants, num_seeds=1)
    plot = paired_differences(group).plot
    assert plot is not None
    assert plot.layout.yaxis.type == "category"  # else the range of the axis ends before 2


def test_group_without_a_difference_has_no_figure() -> None:
    assert "data-figure" not in comparison_html([group_of({"single": [0.5], "grafting": [None]})], None)


def test_warning_of_several_variants_is_given_once() -> None:
    rows = [trial | {"train_images": 2000 if trial["variant"] != "single" else 1000} for trial in rows_of(STUDY)]
    (warning,) = re.findall("<li>(.*?)</li>", comparison_html(groups_of(rows), None))
    assert warning.startswith("grafting, noise: ")
    assert has_phrases(warning, "2,000", "1,000", "(+100 %)")
    assert "<li>" not in comparison_html([group_of(STUDY)], None)


def test_note_gives_expected_misses_among_the_intervals_of_all_groups() -> None:
    both = comparison_markdown([group_of(STUDY), group_of(STUDY)], None)
    assert has_phrases(both, "5 % of studies", "of the 4 here, 0.2 are")
    (single,) = groups_of(rows_of({"single": [0.5], "grafting": [0.5], "noise": [0.5]}), num_seeds=1)
    assert "chance" not in comparison_markdown([single], None)


def test_markdown_has_the_same_cells_as_the_page() -> None:
    markdown = comparison_markdown([group_of(STUDY)], PUBLISHED)
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")
    ]
    assert [table[0], *table[2:]] == cells_of(comparison_html([group_of(STUDY)], PUBLISHED))
    assert set("".join(table[1])) == {"-", ":"}
    assert verdict(group_of(STUDY)) in markdown
    assert "Published: Table <1> of a paper" in markdown


def test_groups_are_named_by_their_values() -> None:
    rows = [row("single", seed, 0.5, **{"population.num_peers": peers}) for peers in (2, 4) for seed in range(3)]
    groups = groups_of(rows, searched={"population.num_peers": [2, 4]})
    assert "**population.num_peers = 4**" in comparison_markdown(groups, None)
    assert "<h3>population.num_peers = 4</h3>" in comparison_html(groups, None)
    output = StringIO()
    for part in comparison_tables(groups, None):
        Console(file=output, width=100).print(part)
    assert "population.num_peers = 4" in output.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_terminal_does_not_wrap_numbers(width: int) -> None:
    output = StringIO()
    console = Console(file=output, width=width)
    for part in comparison_tables([group_of(STUDY)], PUBLISHED):
        console.print(part)
    words = output.getvalue().split()
    for text in " ".join([*SINGLE, *GRAFTING, "93.94"]).split():
        assert text in words, f"{text} at {width} columns"
    assert max(map(len, output.getvalue().splitlines())) <= width


def test_terminal_of_100_columns_has_one_line_per_variant() -> None:
    variants: dict[str, dict[str, Any]] = {name: {} for name in ("single", "graft-gentle", "codistillation")}
    rows = rows_of(dict.fromkeys(variants, (0.5, 0.5125, 0.525)))
    rows = [trial | {"train_images": 400_000 + 10_000 * (trial["variant"] != "single")} for trial in rows]
    (table,) = (part for part in comparison_tables(groups_of(rows, variants=variants), None) if isinstance(part, Table))
    output = StringIO()
    Console(file=output, width=100).print(table)
    assert [line.split()[0] for line in output.getvalue().splitlines()[-3:]] == list(variants)
