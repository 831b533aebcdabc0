"""search_spaces/cifar.yaml is the papers' recipe, and tells of every key what the settings tell."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from generated_files import generated_files

from graftpop.settings import Settings
from graftpop.space import load_space, parse_space
from graftpop.space.settings_schema import parts_of, settings_schema
from graftpop.space.yaml_tree import STUDY_KEYS, known_keys

ROOT = Path(__file__).parents[2]
CIFAR = ROOT / "search_spaces" / "cifar.yaml"


def test_the_cifar_space_is_the_papers_recipe() -> None:
    space = load_space(CIFAR)
    for sample in ({}, {"population.num_peers": 8, "graft.A": 0.1}):
        training = space.resolve(sample).training
        assert (training.epochs, training.batch_size, training.lr, training.schedule) == (200, 128, 0.1, "step")
        assert (training.weight_decay, training.momentum) == (5e-4, 0.9)
    assert space.resolve().data.name == "cifar10"
    assert {"population.num_peers", "graft.alpha", "graft.A", "graft.c"} <= space.domains.keys()


def commented_keys() -> Iterator[tuple[str, str]]:
    """Yield each dotted key of cifar.yaml with the comment above it, or of a section that is off behind it."""
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
            if rest == " null" and not indent:
                yield from ((f"{name}.{key}", text) for key, text in keys_of_null.items())
            elif rest:
                yield section + name if indent else name, comment.strip()
            comment, keys_of_null = "", {}
        else:
            comment, keys_of_null = "", {}


def sections_that_are_off() -> dict[str, dict[str, Any]]:
    """Return what the comments of cifar.yaml would be as sections."""
    blocks = re.findall(r"((?:^#.*\n)+)^(\w+): null$", CIFAR.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        name: yaml.safe_load(
            "".join(f"{key}: {value}\n" for key, value in re.findall(r"^#   (\w+): (.*?)   ", block, re.MULTILINE))
        )
        for block, name in blocks
    }


def test_the_cifar_space_is_the_reference_of_every_key() -> None:
    assert [key for key, _ in commented_keys()] == list(known_keys(Settings))
    assert [key for key, comment in commented_keys() if not comment] == []


@pytest.mark.parametrize("name", generated_files())
def test_what_is_generated_from_the_settings_is_up_to_date(name: str) -> None:
    is_text = (ROOT / name).read_text(encoding="utf-8")
    assert is_text == generated_files()[name], f"{name}: run python tests/generated_files.py, which writes it anew"


def test_what_null_stands_for_where_it_is_a_number() -> None:
    comments = dict(commented_keys())
    assert f"null: {Settings().num_epochs}," in comments["training.epochs"]
    assert f"null: {parse_space({}).num_trials()}," in comments["tune.num_samples"]


def test_the_sections_that_are_off_in_the_cifar_space_stand_there_with_their_defaults() -> None:
    off = sections_that_are_off()
    assert list(off) == ["distillation", "mutual", "repr", "attenuation", "swa"]
    for name, keys in off.items():
        teachers = {"teachers": keys["teachers"]} if name == "distillation" else {}
        assert parse_space({name: keys}) == parse_space({name: teachers})
        assert parse_space({name: keys}).tree[name] == keys


def test_the_text_of_a_key_says_what_its_words_stand_for() -> None:
    schema = settings_schema()
    keys = [(key, value) for section in schema["$defs"].values() for key, value in section["properties"].items()]
    for key, value in keys:
        words = [part["const"] for part in parts_of(value) if "const" in part]
        words += ["null"] * ({"type": "null"} in parts_of(value))
        assert all(f"{word}: " in value["description"] for word in words), key
        assert not re.search(r"[Dd]efault \S+\.|\b(above|below) \d|\d or more", value["description"]), key


def test_the_cifar_space_tells_of_every_key_of_a_comparison() -> None:
    told = re.findall(r"^#   (\w+): .+?   \w", CIFAR.read_text(encoding="utf-8").split("\nname:")[0], re.MULTILINE)
    assert sorted(told) == sorted(STUDY_KEYS)
