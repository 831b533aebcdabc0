"""search_spaces/cifar.yaml is the recipe of the papers, and comments every key as the settings describe it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from generated_files import generated_files
from generators.settings_schema import parts_of, settings_schema
from space_makers import METHODS

from graftpop.settings import Settings
from graftpop.space import load_space, parse_space
from graftpop.space.keys import STUDY_KEYS, known_keys

ROOT = Path(__file__).parents[2]
CIFAR = ROOT / "search_spaces" / "cifar.yaml"


def test_cifar_space_is_the_recipe_of_the_papers() -> None:
    space = load_space(CIFAR)
    for sample in ({}, {"population.num_peers": 8, "graft.A": 0.1}):
        training = space.resolve(sample).training
        assert (training.epochs, training.batch_size, training.lr, training.schedule) == (200, 128, 0.1, "step")
        assert (training.weight_decay, training.momentum) == (5e-4, 0.9)
    assert space.resolve().data.name == "cifar10"
    assert {"population.num_peers", "graft.alpha", "graft.A", "graft.c"} <= space.domains.keys()


def commented_keys() -> Iterator[tuple[str, str]]:
    """Yield each dotted key of cifar.yaml with its comment; keys of a null section are in the comment above it."""
    section, comment, keys_of_null = "", "", {}
    for line in CIFAR.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"#   (\w+): .*?   (.*)", line):
            keys_of_null[match[1]] = match[2]
        elif line.strip().startswith("#"):
            comment += line.strip().removeprefix("#")
        elif match := re.match(r"( *)(\w+):(.*)", line):
            indent, name, rest = match.groups()
            if not indent:
                section = "" if rest else f"{name}."
            if rest == " null" and not indent and keys_of_null:
                yield from ((f"{name}.{key}", text) for key, text in keys_of_null.items())
            elif rest:
                yield section + name if indent else name, comment.strip()
            comment, keys_of_null = "", {}
        else:
            comment, keys_of_null = "", {}


def sections_that_are_off() -> dict[str, dict[str, Any]]:
    """Return the null sections of cifar.yaml as their comments describe them."""
    blocks = re.findall(r"((?:^#.*\n)+)^(\w+): null$", CIFAR.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        name: yaml.safe_load(
            "".join(f"{key}: {value}\n" for key, value in re.findall(r"^#   (\w+): (.*?)   ", block, re.MULTILINE))
            or "{}"
        )
        for block, name in blocks
        if name in METHODS
    }


def test_cifar_space_comments_every_key() -> None:
    assert [key for key, _ in commented_keys() if key != "align"] == list(known_keys(Settings))  # align has no keys
    assert [key for key, comment in commented_keys() if not comment] == []


@pytest.mark.parametrize("name", generated_files())
def test_generated_file_is_up_to_date(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == generated_files()[name], f"{name}: run python tests/support/generated_files.py to update it"


def test_comments_give_the_values_behind_null() -> None:
    comments = dict(commented_keys())
    assert f"null: {Settings().num_epochs}," in comments["training.epochs"]
    searching = parse_space({"graft": {"A": {"uniform": [0, 1]}}})
    assert f"null: {searching.num_trials()}," in comments["tune.num_samples"]


def test_comments_of_null_sections_give_the_defaults() -> None:
    off = sections_that_are_off()
    assert list(off) == [name for name in METHODS if name != "graft"]
    for name, keys in off.items():
        teachers = {"teachers": keys["teachers"]} if name == "distillation" else {}
        rule: dict[str, Any] = {"graft": {}} if name == "align" else {}
        assert parse_space({**rule, name: keys}) == parse_space({**rule, name: teachers})
        assert parse_space({**rule, name: keys}).tree[name] == keys


def test_descriptions_explain_every_word_and_omit_range_and_default() -> None:
    schema = settings_schema()
    keys = [(key, value) for section in schema["$defs"].values() for key, value in section["properties"].items()]
    for key, value in keys:
        words = [part["const"] for part in parts_of(value) if "const" in part]
        words += ["null"] * ({"type": "null"} in parts_of(value))
        assert all(f"{word}: " in value["description"] for word in words), key
        assert not re.search(r"[Dd]efault \S+\.|\b(above|below) \d|\d or more", value["description"]), key


def test_cifar_space_comments_every_key_of_a_comparison() -> None:
    commented = re.findall(r"^#   (\w+): .+?   \w", CIFAR.read_text(encoding="utf-8").split("\nname:")[0], re.MULTILINE)
    assert sorted(commented) == sorted(STUDY_KEYS)
