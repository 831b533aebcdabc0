"""Search domains: accepted values, samples, and messages."""

import math
import random
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graftpop.errors import SpaceError
from graftpop.space import DOMAINS, Domain
from graftpop.space.domains import is_domain, number_hint, read_domain

VALID: dict[str, list[Any]] = {
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
DECIMAL_RANGES = st.builds(
    lambda low_steps, num_steps, step, exponent: tuple(
        float(Decimal(number).scaleb(-exponent)) for number in (low_steps * step, (low_steps + num_steps) * step, step)
    ),
    st.integers(-(10**6), 10**6),
    st.integers(1, 10**6),
    st.integers(1, 999),
    st.integers(0, 8),
)
"""(low, high, step) as a user writes them: all on a decimal grid, and low and high multiples of step."""
SEEDS = st.integers(0, 2**32).map(random.Random)


def samples(kind: str, values: list[Any], number: int = 400) -> list[Any]:
    rng = random.Random(0)
    domain = read_domain({kind: values}, "key")
    return [domain.sample(rng) for _ in range(number)]


def test_every_kind_is_covered() -> None:
    assert VALID.keys() == DOMAINS.keys()


@pytest.mark.parametrize("kind", VALID)
def test_domain_keeps_its_values_and_prints_as_yaml(kind: str) -> None:
    domain = read_domain({kind: VALID[kind]}, "key")
    assert domain == Domain(kind, tuple(VALID[kind]))
    assert yaml.safe_load(str(domain)) == {kind: VALID[kind]}


@pytest.mark.parametrize(
    ("kind", "values", "rule"),
    [
        ("choice", [], "at least one"),
        ("grid", [], "at least one"),
        ("choice", [1, 2, 1], "differ"),
        ("choice", 3, "list"),
        ("choice", {"a": 1}, "list"),
        ("uniform", None, "list"),
        ("uniform", [], "two numbers"),
        ("uniform", [0.1], "two numbers"),
        ("uniform", [0, 1, 2], "two numbers"),
        ("uniform", [False, True], "two numbers"),
        ("uniform", [0.0, math.inf], "two numbers"),
        ("uniform", [math.nan, 1.0], "two numbers"),
        ("uniform", [0.5, 0.5], "low must be below high"),
        ("uniform", [1.0, 0.0], "low must be below high"),
        ("loguniform", [0.0, 1.0], "low must be above 0"),
        ("loguniform", [-1.0, 1.0], "low must be above 0"),
        ("loguniform", [2, 1], "low must be below high"),
        ("quniform", [0.0, 1.0], "three numbers"),
        ("quniform", [0.0, 1.0, 0.0], "step must be above 0 and at most high - low"),
        ("quniform", [0.0, 1.0, 2.0], "step must be above 0 and at most high - low"),
        ("quniform", [1.0, 0.0, 0.1], "step must be above 0 and at most high - low"),
        ("quniform", [1.0, 0.0, -0.1], "step must be above 0 and at most high - low"),
        ("quniform", [0.5, 0.5, 0.5], "step must be above 0 and at most high - low"),
        ("quniform", [0.1, 0.7, 0.3], "multiples of step"),
        ("quniform", [0.0, 1.0, 0.3], "multiples of step"),
        ("quniform", [0.0, 1.0, 1.5], "multiples of step"),
        ("randint", [1.0, 5], "two whole numbers"),
        ("randint", [False, True], "two whole numbers"),
        ("randint", [3, 3], "low must be below high"),
        ("randint", [5, 1], "low must be below high"),
    ],
)
def test_invalid_values_are_refused_with_origin_rule_and_value(kind: str, values: Any, rule: str) -> None:
    with pytest.raises(SpaceError) as caught:
        read_domain({kind: values}, "space.yaml: training.lr")
    message = str(caught.value)
    assert message.startswith(f"space.yaml: training.lr: {kind} ")
    assert rule in message
    assert f", got {values}" in message


def test_strings_that_spell_numbers_are_refused_with_the_number() -> None:
    with pytest.raises(SpaceError, match=r"^training\.lr: loguniform .*, got \['1e-4', '1e-1'\]; .* 0\.0001$"):
        read_domain({"loguniform": ["1e-4", "1e-1"]}, "training.lr")


@pytest.mark.parametrize("kind", ["choice", "grid"])
def test_values_that_differ_only_in_type_are_accepted(kind: str) -> None:
    values = [1, "1", True, "True", None, "None"]
    assert read_domain({kind: values}, "key").values == tuple(values)


def test_quniform_accepts_a_step_beyond_bounds_by_rounding() -> None:
    low, high, step = 0.2, 0.3, 0.1
    assert high - low < step
    domain = read_domain({"quniform": [low, high, step]}, "key")
    assert {domain.sample(random.Random(seed)) for seed in range(20)} == {low, high}


@given(DECIMAL_RANGES, SEEDS)
def test_quniform_accepts_any_number_of_steps_on_a_decimal_grid(
    values: tuple[float, float, float], rng: random.Random
) -> None:
    low, high, step = values
    domain = read_domain({"quniform": [low, high, step]}, "key")
    sample = domain.sample(rng)
    assert low <= sample <= high
    assert sample / step == pytest.approx(round(sample / step), rel=1e-9, abs=1e-6)


@given(DECIMAL_RANGES, st.sampled_from([0.25, 0.5, 0.75]))
def test_quniform_refuses_bounds_between_two_steps(values: tuple[float, float, float], shift: float) -> None:
    low, high, step = values
    for bounds in ([low + shift * step, high], [low, high + shift * step]):
        with pytest.raises(SpaceError, match="step"):
            read_domain({"quniform": [*bounds, step]}, "key")


@given(RANGES, SEEDS)
def test_sample_is_within_the_bounds(domain: Domain, rng: random.Random) -> None:
    low, high = domain.values[:2]
    assert all(low <= domain.sample(rng) <= high for _ in range(20))


@given(st.lists(st.integers() | st.text() | st.none(), min_size=1, max_size=9, unique_by=repr), SEEDS)
def test_sample_of_choice_or_grid_is_one_of_its_values(values: list[Any], rng: random.Random) -> None:
    assert all(Domain(kind, tuple(values)).sample(rng) in values for kind in ("choice", "grid") for _ in range(10))


@given(STEPPED, SEEDS)
def test_quniform_samples_are_whole_steps_above_low(values: tuple[float, float, float], rng: random.Random) -> None:
    low, _, step = values
    steps = (Domain("quniform", values).sample(rng) - low) / step
    assert steps == pytest.approx(round(steps), abs=1e-9)


def test_quniform_yields_every_step_and_both_bounds() -> None:
    drawn = samples("quniform", [0.1, 0.7, 0.1])
    assert 0.1 + 6 * 0.1 > 0.7  # an unclipped sample would exceed the bound
    assert max(drawn) == 0.7
    assert sorted({round(value, 9) for value in drawn}) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_randint_yields_every_whole_number_and_both_bounds() -> None:
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
def test_clip_returns_the_nearest_value_and_keeps_samples(domain: Domain, number: float, rng: random.Random) -> None:
    sample, clipped = domain.sample(rng), domain.clip(number)
    assert domain.values[0] <= clipped <= domain.values[1]
    assert abs(clipped - number) <= abs(sample - number) + 1e-6
    assert domain.clip(sample) == pytest.approx(sample, rel=1e-12, abs=1e-12)
    assert domain.kind != "randint" or isinstance(clipped, int)


def test_clip_keeps_choices() -> None:
    assert Domain("choice", ("adaptive", 0.5)).clip("adaptive") == "adaptive"


@pytest.mark.parametrize(
    ("kind", "expected"), [("choice", ("adaptive", 0.5)), ("grid", (1, 2, 4)), ("randint", (2, 3, 4, 5))]
)
def test_finite_domain_lists_all_values(kind: str, expected: tuple[Any, ...]) -> None:
    domain = read_domain({kind: VALID[kind]}, "key")
    assert domain.is_finite
    assert tuple(domain.every_value()) == expected


@pytest.mark.parametrize(
    ("value", "is_inside"), [(0, True), (2**62, True), (2**63 - 1, True), (-1, False), (2**63, False), (1.0, False)]
)
def test_wide_range_of_whole_numbers_is_not_searched_value_by_value(value: Any, is_inside: bool) -> None:
    domain = Domain("randint", (0, 2**63 - 1))
    assert domain.contains(value) is is_inside
    assert domain.num_values == 2**63


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "quniform"])
def test_domain_of_floats_is_not_finite(kind: str) -> None:
    assert not read_domain({kind: VALID[kind]}, "key").is_finite


@given(RANGES)
def test_boundary_values_include_both_bounds_and_are_within_them(domain: Domain) -> None:
    low, high = domain.values[:2]
    assert {low, high} <= set(domain.boundary_values)
    assert all(low <= value <= high for value in domain.boundary_values)


@pytest.mark.parametrize(
    ("kind", "values", "inside"),
    [("uniform", [1, 5], None), ("loguniform", [1, 100], None), ("quniform", [0.25, 1.0, 0.25], 0.5)],
)
def test_boundary_values_include_one_value_inside(kind: str, values: list[float], inside: float | None) -> None:
    low, high, found = read_domain({kind: values}, "key").boundary_values
    assert [low, high] == values[:2]
    assert low < found < high
    assert found == inside if inside else found % 1  # a fraction, so that keys of whole numbers refuse it


def test_clip_rounds_to_a_step() -> None:
    domain = Domain("quniform", (0.25, 1.0, 0.25))
    assert [domain.clip(number) for number in (-9, 0.3, 0.4, 0.6, 0.9, 9)] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    "node", [{}, {"choice": [1], "grid": [1]}, {"normal": [0, 1]}, ["choice"], "choice", None, 3, {"root": None}]
)
def test_domain_is_a_map_with_one_known_kind(node: Any) -> None:
    assert not is_domain(node)
    assert is_domain({"choice": node})


@pytest.mark.parametrize(("text", "number"), [("1e-4", "0.0001"), ("5e2", "500.0"), ("32", "32"), ("0.5", "0.5")])
def test_numeric_string_is_refused_with_a_number_hint(text: str, number: str) -> None:
    hint = number_hint(text)
    assert hint.startswith(f"; '{text}' ")
    assert hint.endswith(f" {number}")


@pytest.mark.parametrize("text", ["fast", ""])
def test_other_strings_have_no_number_hint(text: str) -> None:
    assert number_hint(text) == ""
