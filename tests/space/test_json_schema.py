"""The JSON Schema of a space file agrees with the parser on every value and domain."""

import json
import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from generators.json_schema import KINDS, schema_text, space_schema
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from graftpop.errors import GraftpopError
from graftpop.settings import Settings
from graftpop.space import DOMAINS, parse_space
from graftpop.space.keys import STUDY_KEYS, known_keys
from graftpop.space.yaml_tree import put
from graftpop.study.preflight import check_names

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").rglob("*.yaml"))
TEACHERS = [{"model": "resnet8", "epochs": 3}]
NUMBERS = [-1, 0, 1, 2, 3, 64, 4096, 4097, 2**63 - 1, 2**63, -0.5, 0.0, 0.1, 0.5, 0.975, 1.5, 10.0]
WORDS = [
    "",
    "auto",
    "adaptive",
    "nonsense",
    "a b",
    "1e-4",
    "digits",
    "folder",
    "resnet56_leaky",
    "torchvision:resnet18",
    "torchvision:",
    "cosine",
    "random_pairs",
    "float32",
    "async",
    "learning_rate",
    "greedy_soup",
    "noise",
    "l1",
    "filter",
    "released_code",
    "snapshots",
    "entropy",
    "falling",
    "growing",
    "val_accuracy",
    "max",
    "random",
    "asha",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    *NUMBERS,
    *WORDS,
    [],
    [0.1],
    [0.0],
    ["a"],
    {},
    {"a": 1},
    TEACHERS,
    [{}],
    [{"model": "nonsense"}],
]
BEYOND_A_SCHEMA = re.compile(
    "|".join(
        (
            r"integer( or 'auto'| or a valid list)?, got \d+\.0$",  # JSON Schema takes 2.0 as a whole number
            "is not searched",
            "must be val_accuracy, or a list",
            "must have one item per metric",
            "must be a multiple of",
            "must be at most",
            "must be round without an exchange rule",
            "at most one exchange rule",
            "needs an exchange rule",
            "must be below the number",
            "epochs of cycles must be below",
            "needs the folder",
            "has no argument",
            "is set by training",
            "in rising order",
            "must be below the epochs of the training",
            "needs exactly one of",
            "must be arguments of",
            "hard pruning",
            "above 1 must be a whole number",
            "low must be below high",
            "low and high must be multiples",
            "step must be above 0 and at most high - low",
            "has no effect",
            "got \\d+\\.0 among the searched values",
            r"two whole numbers .*, got \[.*\d\.0\b",
            "must be null with sampler grid",
            "cannot be searched by randint",
        )
    )
)
"""Messages of rules between keys, or between parts of a value, which the schema does not know."""
KEYS = [*known_keys(Settings)]


@cache
def validator() -> jsonschema.Draft202012Validator:
    schema = space_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def refusal(tree: dict[str, Any]) -> str:
    """Return the message that refuses a space before its data and networks are read; empty if it is accepted."""
    try:
        check_names(parse_space(tree))
    except GraftpopError as error:
        return str(error)
    return ""


def tree_with(key: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {"distillation": {"teachers": TEACHERS}} if key.startswith("distillation.") else {}
    put(tree, key, value)
    return tree


def assert_agreed(tree: dict[str, Any]) -> None:
    message = refusal(tree)
    if validator().is_valid(tree):
        assert not message or BEYOND_A_SCHEMA.search(message), tree
    else:
        assert message, tree


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_spaces_of_the_project_are_valid(file: Path) -> None:
    assert [error.message for error in validator().iter_errors(yaml.safe_load(file.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize("key", KEYS)
def test_schema_and_parser_agree_on_single_values(key: str) -> None:
    for value in VALUES:
        assert_agreed(tree_with(key, value))


@st.composite
def domains(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from([*DOMAINS]))
    numbers = st.sampled_from(NUMBERS)
    mixed = st.sampled_from([*VALUES, {"A": 0.4}, {"lr": 0.2}, {"teachers": TEACHERS}])
    listed = draw(st.lists(numbers if draw(st.booleans()) else mixed, max_size=3))
    return {kind: sorted(listed) if all(type(value) in (int, float) for value in listed) else listed}


@given(st.sampled_from([*KEYS, *Settings.model_fields]), domains())
@profile(max_examples=2000)
def test_schema_and_parser_agree_on_domains(key: str, domain: dict[str, Any]) -> None:
    assert_agreed(
        tree_with("tune.sampler", "grid") | tree_with(key, domain)
        if "grid" in domain and key[:4] != "tune"
        else tree_with(key, domain)
    )


@pytest.mark.parametrize(
    "text",
    [
        "variants: {a: {graft: {}}, b: }",
        "variants: {a: {data: {max_train_images: 100}}}",
        "variants: null",
        "seeds: [0, 1]",
        "{variants: {a: }, baseline: a}",
        "{variants: {a: }, compare: {equal: time}}",
        "{variants: {a: }, compare: {}}",
        "{distillation: {}, variants: {a: {distillation: {teachers: [{checkpoint: f}]}}}}",
        "{variants: {a: }, published: {source: s, scores: [{variant: a, percent: 90, std: 1}]}}",
        "{variants: {a: }, model: {name: {grid: [resnet8]}}, published: {source: s, scores: "
        "[{variant: a, model.name: resnet8, percent: 9.5}]}}",
        "population: {choice: [{num_peers: 2}, {num_peers: 3}]}",
        "graft: {choice: [null, {A: 0.5}]}",
        "{}",
        "distillation: {choice: [{teachers: [{checkpoint: file}]}, null]}",
        "training: {optimizer: {name: adamw, betas: [0.9, 0.99]}}",
        "training: {optimizer: {name: {choice: [sgd, 'timm:lamb']}}}",
        "training: {optimizer: {name: adamw, eps: {loguniform: [1.0e-9, 1.0e-7]}}}",
        "training: {optimizer: {choice: [{name: sgd}, {name: adamw, betas: {choice: [[0.9, 0.99], [0.8, 0.9]]}}]}}",
        "{variants: {a: }, tune: {sampler: grid}, training: {optimizer: {name: adamw, eps: {grid: [0.1, 0.2]}}}, "
        "published: {source: s, scores: [{variant: a, training.optimizer.eps: 0.1, percent: 9}]}}",
    ],
)
def test_valid_comparisons_and_sections_are_accepted(text: str) -> None:
    assert refusal(yaml.safe_load(text)) == ""
    assert [error.message for error in validator().iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "variants: {}",
        "variants: [a]",
        "variants: {a b: {}}",
        "variants: {a: {name: x}}",
        "variants: {a: {tune: {}}}",
        "variants: {a: {graft: {A: {choice: [0.1]}}}}",
        "variants: {a: {graft: {A: 2}}}",
        "variants: {a: {data: null}}",
        "variants: {a: {grfat: {}}}",
        "task: {name: {choice: [classification, recognition]}}",
        "task: {metrics: {choice: [null]}}",
        "task: {choice: [{name: classification}, {name: recognition}]}",
        "seeds: []",
        "seeds: [0, 0]",
        "seeds: [-1]",
        "seeds: 3",
        "baseline: {}",
        "{variants: {a: }, compare: time}",
        "{variants: {a: }, compare: {equal: flops}}",
        "{variants: {a: }, published: {source: s}}",
        "{variants: {a: }, published: {source: ' ', scores: []}}",
        "{variants: {a: }, published: {source: s, scores: [{variant: a}]}}",
        "{variants: {a: }, published: {source: s, scores: [{variant: a, percent: 101}]}}",
        "{variants: {a: }, published: {source: s, scores: [{variant: a, percent: 9, seed: 0}]}}",
        "distillation: {}",
        "distillation: {weight: 2.0}",
        "distillation: {choice: [{}]}",
        "training: {optimizer: {name: adamv}}",
        "training: {optimizer: {name: {choice: [sgd, adamv]}}}",
        "training: {optimizer: adamw}",
        "training: {optimizer: null}",
        "trainin: {}",
        "data: null",
        "tune: {num_samples: {choice: [3]}}",
        "graft: {choice: []}",
        "graft: {uniform: [0, 1]}",
        "data: {max_train_images: {randint: [1, 9]}}",
    ],
)
def test_invalid_comparisons_and_sections_are_refused(text: str) -> None:
    assert refusal(yaml.safe_load(text))
    assert not validator().is_valid(yaml.safe_load(text))


def test_every_key_and_section_has_a_description() -> None:
    schema = space_schema()
    keys = [
        *chain.from_iterable(
            (node["properties"].items())
            for node in schema["$defs"].values()
            if "properties" in node and node is not schema["$defs"]["Variant"]
        ),
        *schema["properties"].items(),
    ]
    assert [key for key, value in keys if not value.get("description", "").endswith(".")] == []
    assert set(schema["properties"]) == {*Settings.model_fields, *STUDY_KEYS}


def test_every_kind_of_domain_has_a_description() -> None:
    assert all(kind["description"] for kind in KINDS.values())


def test_schema_text_reads_back_equal() -> None:
    assert json.loads(schema_text(space_schema())) == space_schema()
    assert max(map(len, schema_text(space_schema()).splitlines())) <= 400
