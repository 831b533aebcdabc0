"""Search domains: what they accept, what they yield, and what they say of a mistake."""

import math
import random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graftpop.errors import SpaceError
from graftpop.space import DOMAINS, Domain
from graftpop.space.domains import is_domain, number_hint, read_domain

VALID = {
    "choice": ["adaptive", 0.5],
    "uniform": [-1.0, 1.0],
    "loguniform": [1.0e-4, 0.1],
    "quniform": [0.1, 0.5, 0.1],
    "randint": [2, 5],
    "grid": [1, 2, 4],
}

NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)
PAIRS = st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1])
POSITIVE_PAIRS = st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)).filter(lambda pair: pair[0] < pair[1])
STEPPED = st.builds(
    lambda first, num_steps, step: (first * step, (first + num_steps) * step, step),
    st.integers(-20, 20),
    st.integers(1, 30),
    st.sampled_from([0.05, 0.1, 0.25, 1.0, 2, 3.5]),
)
WHOLE_PAIRS = st.tuples(st.integers(-50, 50), st.integers(1, 20)).map(lambda pair: (pair[0], sum(pair)))
RANGES = (
    st.builds(Domain, st.just("uniform"), PAIRS)
    | st.builds(Domain, st.just("loguniform"), POSITIVE_PAIRS)
    | st.builds(Domain, st.just("quniform"), STEPPED)
    | st.builds(Domain, st.just("randint"), WHOLE_PAIRS)
)
SEEDS = st.integers(0, 2**32).map(random.Random)


def samples(kind: str, values: list[Any], number: int = 400) -> list[Any]:
    rng = random.Random(0)
    domain = read_domain({kind: values}, "key")
    return [domain.sample(rng) for _ in range(number)]


def test_every_kind_is_covered_here() -> None:
    assert VALID.keys() == DOMAINS.keys()


@pytest.mark.parametrize("kind", VALID)
def test_a_domain_keeps_its_values_and_is_written_as_the_yaml_has_it(kind: str) -> None:
    domain = read_domain({kind: VALID[kind]}, "key")
    assert domain == Domain(kind, tuple(VALID[kind]))
    assert yaml.safe_load(str(domain)) == {kind: VALID[kind]}


@pytest.mark.parametrize(
    ("kind", "values", "rule"),
    [
        ("choice", [], "choice needs at least one value, got []"),
        ("grid", [], "grid needs at least one value, got []"),
        ("choice", [1, 2, 1], "choice values must differ from each other, got [1, 2, 1]"),
        ("choice", 3, "choice needs a list of values, got 3"),
        ("choice", {"a": 1}, "choice needs a list of values, got {'a': 1}"),
        ("uniform", None, "uniform needs a list of values, got None"),
        ("uniform", [], "uniform needs two numbers [low, high], got []"),
        ("uniform", [0.1], "uniform needs two numbers [low, high], got [0.1]"),
        ("uniform", [0, 1, 2], "uniform needs two numbers [low, high], got [0, 1, 2]"),
        ("uniform", [False, True], "uniform needs two numbers [low, high], got [False, True]"),
        ("uniform", [0.0, math.inf], "uniform needs two numbers [low, high], got [0.0, inf]"),
        ("uniform", [math.nan, 1.0], "uniform needs two numbers [low, high], got [nan, 1.0]"),
        ("uniform", [0.5, 0.5], "uniform low must be below high, got [0.5, 0.5]"),
        ("uniform", [1.0, 0.0], "uniform low must be below high, got [1.0, 0.0]"),
        ("loguniform", [0.0, 1.0], "loguniform low must be above 0, got [0.0, 1.0]"),
        ("loguniform", [-1.0, 1.0], "loguniform low must be above 0, got [-1.0, 1.0]"),
        ("loguniform", [2, 1], "loguniform low must be below high, got [2, 1]"),
        (
            "loguniform",
            ["1e-4", "1e-1"],
            "loguniform needs two numbers [low, high], got ['1e-4', '1e-1']; '1e-4' is text in YAML, write 0.0001",
        ),
        ("quniform", [0.0, 1.0], "quniform needs three numbers [low, high, step], got [0.0, 1.0]"),
        ("quniform", [0.0, 1.0, 0.0], "quniform step must be above 0 and at most high - low, got [0.0, 1.0, 0.0]"),
        ("quniform", [0.0, 1.0, 2.0], "quniform step must be above 0 and at most high - low, got [0.0, 1.0, 2.0]"),
        ("quniform", [1.0, 0.0, 0.1], "quniform step must be above 0 and at most high - low, got [1.0, 0.0, 0.1]"),
        ("quniform", [0.1, 0.7, 0.3], "quniform low and high must be multiples of step, got [0.1, 0.7, 0.3]"),
        ("quniform", [0.0, 1.0, 0.3], "quniform low and high must be multiples of step, got [0.0, 1.0, 0.3]"),
        ("randint", [1.0, 5], "randint needs two whole numbers [low, high], both included, got [1.0, 5]"),
        ("randint", [False, True], "randint needs two whole numbers [low, high], both included, got [False, True]"),
        ("randint", [3, 3], "randint low must be below high, got [3, 3]"),
        ("randint", [5, 1], "randint low must be below high, got [5, 1]"),
    ],
)
def test_values_that_do_not_fit_their_kind_are_refused_by_where_rule_and_value(
    kind: str, values: Any, rule: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        read_domain({kind: values}, "space.yaml: training.lr")
    assert str(caught.value) == f"space.yaml: training.lr: {rule}"


@given(RANGES, SEEDS)
def test_a_sample_lies_within_the_bounds(domain: Domain, rng: random.Random) -> None:
    low, high = domain.values[:2]
    assert all(low <= domain.sample(rng) <= high for _ in range(20))


@given(st.lists(st.integers() | st.text() | st.none(), min_size=1, max_size=9, unique_by=repr), SEEDS)
def test_a_sample_of_a_choice_or_grid_is_one_of_its_values(values: list[Any], rng: random.Random) -> None:
    assert all(Domain(kind, tuple(values)).sample(rng) in values for kind in ("choice", "grid") for _ in range(10))


@given(STEPPED, SEEDS)
def test_a_sample_of_quniform_is_a_whole_number_of_steps_above_low(
    values: tuple[float, float, float], rng: random.Random
) -> None:
    low, _, step = values
    steps = (Domain("quniform", values).sample(rng) - low) / step
    assert steps == pytest.approx(round(steps), abs=1e-9)


def test_quniform_reaches_every_step_and_both_bounds() -> None:
    assert sorted({round(value, 9) for value in samples("quniform", [0.1, 0.7, 0.1])}) == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
    ]


def test_randint_reaches_every_whole_number_and_both_bounds() -> None:
    drawn = samples("randint", [2, 5])
    assert set(drawn) == {2, 3, 4, 5}
    assert {type(value) for value in drawn} == {int}


def test_uniform_has_half_of_its_samples_below_the_middle() -> None:
    drawn = samples("uniform", [2.0, 6.0], 4000)
    assert sum(value < 4.0 for value in drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


def test_loguniform_has_half_of_its_samples_below_the_geometric_mean() -> None:
    drawn = samples("loguniform", [1e-4, 1.0], 4000)
    assert sum(value < 1e-2 for value in drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


def test_equal_random_states_draw_equal_samples() -> None:
    assert all(samples(kind, values, 20) == samples(kind, values, 20) for kind, values in VALID.items())


@given(RANGES, st.floats(-1e7, 1e7), SEEDS)
def test_clipping_gives_the_nearest_value_and_leaves_samples_where_they_are(
    domain: Domain, number: float, rng: random.Random
) -> None:
    sample, clipped = domain.sample(rng), domain.clip(number)
    assert domain.values[0] <= clipped <= domain.values[1]
    assert abs(clipped - number) <= abs(sample - number) + 1e-6
    assert domain.clip(sample) == pytest.approx(sample, rel=1e-12, abs=1e-12)
    assert domain.kind != "randint" or isinstance(clipped, int)


def test_clipping_leaves_choices_alone() -> None:
    assert Domain("choice", ("adaptive", 0.5)).clip("adaptive") == "adaptive"


@pytest.mark.parametrize(
    ("kind", "expected"), [("choice", ("adaptive", 0.5)), ("grid", (1, 2, 4)), ("randint", (2, 3, 4, 5))]
)
def test_a_finite_domain_lists_all_its_values(kind: str, expected: tuple[Any, ...]) -> None:
    domain = read_domain({kind: VALID[kind]}, "key")
    assert domain.is_finite
    assert tuple(domain.every_value()) == expected


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "quniform"])
def test_a_domain_of_numbers_without_gaps_is_not_finite(kind: str) -> None:
    assert not read_domain({kind: VALID[kind]}, "key").is_finite


@given(RANGES)
def test_corners_hold_both_bounds_and_lie_within_them(domain: Domain) -> None:
    low, high = domain.values[:2]
    assert {low, high} <= set(domain.boundary_values)
    assert all(low <= corner <= high for corner in domain.boundary_values)


@pytest.mark.parametrize(
    "node", [{}, {"choice": [1], "grid": [1]}, {"normal": [0, 1]}, ["choice"], "choice", None, 3, {"root": None}]
)
def test_only_a_map_with_one_key_that_names_a_kind_is_a_domain(node: Any) -> None:
    assert not is_domain(node)
    assert is_domain({"choice": node})


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1e-4", "; '1e-4' is text in YAML, write 0.0001"),
        ("5e2", "; '5e2' is text in YAML, write 500.0"),
        ("32", "; '32' is text in YAML, write 32"),
        ("0.5", "; '0.5' is text in YAML, write 0.5"),
        ("fast", ""),
        ("", ""),
    ],
)
def test_text_that_spells_a_number_is_answered_with_the_number(text: str, hint: str) -> None:
    assert number_hint(text) == hint
