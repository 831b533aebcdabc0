"""Figures of test score by cost: points, deviations, places of variants with equal costs, and labels."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from report_makers import COMPARED, compared, figures_of

COSTS = ("images", "epochs", "time", "flops")


def plot_of(html: str, cost: str) -> dict[str, Any]:
    found: dict[str, Any] = figures_of(html)[f"costs/0/{cost}"]["plot"]
    return found


def points_of(plot: Mapping[str, Any]) -> dict[str, tuple[float, float, float, str]]:
    """Return place, score, deviation and text of each variant's point."""
    return {
        trace["name"]: (trace["x"][0], trace["y"][0], trace["error_y"]["array"][0], trace["text"])
        for trace in plot["data"]
        if trace["mode"] == "markers"
    }


def shown_costs(plot: Mapping[str, Any]) -> list[str]:
    marks = [trace for trace in plot["data"] if trace["mode"] == "markers"]
    return [trace["hovertemplate"].partition("<br>")[2].removesuffix("<extra></extra>") for trace in marks]


FEW = {"one": (0.5, 0.52), "two": (0.6, 0.6), "four": (0.55, 0.57)}


def test_points_are_the_tables_means_and_deviations_by_each_cost() -> None:
    html = compared(
        FEW,
        train_images={"two": 300},
        epochs={"one": 16, "two": 8, "four": 4},
        time_s={"one": 7200.0, "two": 3600.0, "four": 1800.0},
        inference_flops={"four": 12_000_000},
    )
    expected = {"one": (0.51, 0.02 / 2**0.5), "two": (0.6, 0.0), "four": (0.56, 0.02 / 2**0.5)}
    for cost in COSTS:
        points = points_of(plot_of(html, cost))
        assert {name: point[1:3] for name, point in points.items()} == {
            name: pytest.approx(pair, abs=1e-9) for name, pair in expected.items()
        }
    assert [points_of(plot_of(html, "epochs"))[name][0] for name in FEW] == [16, 8, 4]
    assert [points_of(plot_of(html, "time"))[name][0] for name in FEW] == [120, 60, 30]
    assert plot_of(html, "time")["layout"]["xaxis"]["title"]["text"].endswith(", min")
    assert shown_costs(plot_of(html, "flops")) == ["3,000,000", "3,000,000", "12,000,000"]
    assert points_of(plot_of(html, "images"))["one"][3] == "51.00 % \u00b1 1.41 %"


def test_variants_with_equal_costs_are_drawn_side_by_side() -> None:
    means = (0.3, 0.7, 0.5, 0.4, 0.6, 0.2, 0.8, 0.1)
    scores = {name: (mean, mean) for name, mean in zip("abcdefgh", means, strict=True)}
    html = compared(scores, train_images={"h": 1000}, inference_flops={"h": 3_060_000})
    points = points_of(plot_of(html, "images"))
    row = sorted(points[name][:2] for name in "abcdefg")
    assert [score for _, score in row] == sorted(score for _, score in row)
    assert all(right - left >= 10 for (left, _), (right, _) in itertools.pairwise(row))
    assert sum(place for place, _ in row) / 7 == pytest.approx(400)
    assert max(row)[0] < points["h"][0] == 1000
    assert shown_costs(plot_of(html, "images")) == [*["400"] * 7, "1,000"]
    axis = plot_of(html, "flops")["layout"]["xaxis"]  # one row of all
    assert axis["ticktext"] == ["3,000,000 to 3,060,000"]
    places = [point[0] for point in points_of(plot_of(html, "flops")).values()]
    assert axis["range"][0] < min(places) < max(places) < axis["range"][1]


def test_equal_costs_have_a_sentence_in_place_of_a_plot() -> None:
    figure = figures_of(compared(FEW, time_s={"one": 90.8}))["costs/0/images"]
    assert figure["plot"] is None
    assert "400" in figure["description"]
    assert figures_of(compared(FEW, time_s={"one": 90.8}))["costs/0/time"]["plot"] is None  # within 1 %
    assert figures_of(compared(FEW, time_s={"one": 91.8}))["costs/0/time"]["plot"] is not None


def front_of(html: str, cost: str = "flops") -> list[tuple[list[float], list[float]]]:
    """Return places and scores of the line through the Pareto front."""
    return [(trace["x"], trace["y"]) for trace in plot_of(html, cost)["data"] if trace.get("name") == "Pareto front"]


def test_line_connects_the_variants_on_the_front_of_score_and_flops() -> None:
    flops = {"one": 2e6, "two": 6e6, "four": 4e6, "worse": 5e6, "dear": 8e6}
    html = compared(FEW | {"worse": (0.4, 0.4), "dear": (0.6, 0.6)}, inference_flops=flops, epochs={"one": 8})
    assert front_of(html) == [([2e6, 4e6, 6e6], pytest.approx([0.51, 0.56, 0.6]))]
    assert front_of(html, "epochs") == []
    assert "Pareto front" in html[html.index('"costs/0/flops"') : html.index('id="trials"')]
    space = COMPARED.replace("data:", 'task: {name: "python:anywhere.Regression", metrics: {rmse: min}}\ndata:')
    assert front_of(compared(FEW, space, inference_flops=flops)) == []
    falling = {"one": (0.9, 0.9), "two": (0.6, 0.6), "four": (0.7, 0.7)}
    assert front_of(compared(falling, space, inference_flops=flops)) == [([2e6, 4e6, 6e6], [0.9, 0.7, 0.6])]


def test_error_bars_of_shares_end_at_1() -> None:
    plot = plot_of(compared({"one": (0.9, 1.0), "two": (0.5, 0.6)}, epochs={"one": 8}), "epochs")
    bars = {trace["name"]: trace["error_y"] for trace in plot["data"] if trace["mode"] == "markers"}
    assert bars["one"]["array"] == [pytest.approx(0.05)]
    assert bars["one"]["arrayminus"] == [pytest.approx(0.1 / 2**0.5)]
    assert plot["layout"]["yaxis"]["range"][1] == 1


def test_dearer_variant_of_a_row_stays_at_its_right() -> None:
    points = points_of(plot_of(compared(FEW, train_images={"one": 412}), "images"))
    assert points["four"][0] < points["two"][0] < points["one"][0]
    assert plot_of(compared(FEW, train_images={"one": 412}), "images")["layout"]["xaxis"]["ticktext"] == ["400 to 412"]


@pytest.mark.parametrize("num", [2, 20])
def test_labels_do_not_overlap_and_follow_the_scores(num: int) -> None:
    scores = {f"variant-{index}": (0.5 + 1e-4 * (7 * index % num), 0.5) for index in range(num)} | {"low": (0.1, 0.1)}
    plot = plot_of(compared(scores, epochs={"low": 8}), "epochs")
    (labels,) = (trace for trace in plot["data"] if trace["mode"] == "text")
    low, high = plot["layout"]["yaxis"]["range"]
    margin = plot["layout"]["margin"]
    px = (high - low) / (plot["layout"]["height"] - margin["t"] - margin["b"])
    heights = sorted(labels["y"])
    assert all(above - below >= 14.99 * px for below, above in itertools.pairwise(heights))
    assert low < heights[0] < heights[-1] < high
    means = {name: point[1] for name, point in points_of(plot).items()}
    by_height = [name for _, name in sorted(zip(labels["y"], labels["text"], strict=True))]
    assert [means[name] for name in by_height] == sorted(means.values())
    ends = {trace["name"]: trace["y"][1] for trace in plot["data"] if trace["mode"] == "lines"}
    assert ends == dict(zip(labels["text"], labels["y"], strict=True))


def test_labels_of_equal_scores_are_above_and_below_them() -> None:
    scores = {"low": 0.1, "one": 0.5, "two": 0.5, "high": 0.9}
    plot = plot_of(compared({name: (score, score) for name, score in scores.items()}, epochs={"low": 8}), "epochs")
    (labels,) = (trace for trace in plot["data"] if trace["mode"] == "text")
    heights = dict(zip(labels["text"], labels["y"], strict=True))
    assert heights["one"] != heights["two"]
    assert (heights["one"] + heights["two"]) / 2 == pytest.approx(0.5)
    assert (heights["low"], heights["high"]) == (0.1, 0.9)


def test_long_names_are_shortened_beside_the_plot_alone() -> None:
    name = "a-variant-with-a-name-of-many-letters"
    plot = plot_of(compared(FEW | {name: (0.5, 0.5)}, epochs={"one": 8}), "epochs")
    (labels,) = (trace for trace in plot["data"] if trace["mode"] == "text")
    assert max(map(len, labels["text"])) == 18
    assert any(trace.get("hovertemplate", "").startswith(f"{name}: ") for trace in plot["data"])


def test_metric_to_minimize_has_no_percent() -> None:
    space = COMPARED.replace("data:", 'task: {name: "python:anywhere.Regression", metrics: {rmse: min}}\ndata:')
    html = compared({"one": (2.0, 3.0), "two": (1.5, 2.25)}, space, epochs={"one": 8})
    axis = plot_of(html, "epochs")["layout"]["yaxis"]
    assert axis["title"]["text"] == "test rmse, lower is better"
    assert "tickformat" not in axis
    assert points_of(plot_of(html, "epochs"))["one"][1:] == (2.5, pytest.approx(0.5**0.5), "2.5 \u00b1 0.7071")


def test_unknown_costs_and_single_variants_have_no_figure() -> None:
    unknown = dict.fromkeys(FEW, None)
    html = compared(FEW, time_s=unknown, inference_flops=unknown | {"one": 5})
    assert [name for name in figures_of(html) if name.startswith("costs/")] == ["costs/0/images", "costs/0/epochs"]
    assert "costs/" not in "".join(figures_of(compared({"one": (0.5, 0.6)})))


def test_seed_without_a_second_has_no_deviation() -> None:
    html = compared({name: scores[:1] for name, scores in FEW.items()}, epochs={"one": 8})
    assert points_of(plot_of(html, "epochs"))["two"][2:] == (0.0, "60.00 %")


def test_figure_of_the_accounting_is_marked() -> None:
    assert "By epochs per peer (equal)." in compared(FEW)
    html = compared(FEW, epochs={"two": 8})
    assert "By epochs per peer (unequal)." in html
    assert "By images trained by all peers." in html
