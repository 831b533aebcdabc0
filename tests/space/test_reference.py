"""search_spaces/cifar.yaml is the papers' recipe, and the reference of every key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from graftpop.settings import Settings
from graftpop.space import load_space, parse_space
from graftpop.space.tree import STUDY_KEYS, known_keys

CIFAR = Path(__file__).parents[2] / "search_spaces" / "cifar.yaml"


def test_the_cifar_space_is_the_papers_recipe() -> None:
    space = load_space(CIFAR)
    for sample in ({}, {"population.num_peers": 8, "graft.A": 0.1}):
        training = space.settle(sample).training
        assert (training.epochs, training.batch_size, training.lr, training.schedule) == (200, 128, 0.1, "step")
        assert (training.weight_decay, training.momentum) == (5e-4, 0.9)
    assert space.settle().data.name == "cifar10"
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
    return {name: yaml.safe_load("".join(f"{key}: {value}\n" for key, value in
                                         re.findall(r"^#   (\w+): (.*?)   ", block, re.MULTILINE)))
            for block, name in blocks}


def test_the_cifar_space_is_the_reference_of_every_key() -> None:
    assert [key for key, _ in commented_keys()] == list(known_keys(Settings))
    assert [key for key, comment in commented_keys() if not comment] == ["tune.mode"]  # told with tune.metric


def default_of(key: str) -> Any:
    if key == "tune.num_samples":
        return parse_space({}).num_trials()
    if key == "training.epochs":
        return Settings().num_epochs
    settings: Any = parse_space({"graft": {}}).settle()
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def test_the_defaults_that_the_cifar_space_tells_are_those_of_the_settings() -> None:
    told = {key: yaml.safe_load(match.group(1).rstrip(".,")) for key, comment in commented_keys()
            if (match := re.search(r"\bDefault (\S+)", comment))}
    assert told == {key: default_of(key) for key in told}
    off = sections_that_are_off()
    others = {key: value for key in known_keys(Settings)
              if key not in told and key.split(".")[0] not in off and (value := default_of(key)) is not None}
    assert others == {"name": "population", "data.crop_padding": "auto", "data.flip": "auto",
                      "tune.metric": "val_accuracy", "tune.mode": "max"}


def test_the_sections_that_are_off_in_the_cifar_space_stand_there_with_their_defaults() -> None:
    off = sections_that_are_off()
    assert list(off) == ["distillation", "mutual", "repr", "attenuation", "swa"]
    for name, keys in off.items():
        teachers = {"teachers": keys["teachers"]} if name == "distillation" else {}
        assert parse_space({name: keys}) == parse_space({name: teachers})
        assert parse_space({name: keys}).tree[name] == keys


def test_the_cifar_space_tells_what_auto_and_null_mean() -> None:
    comments = dict(commented_keys())
    assert all(word in comments[key] for word, key in (
        ("null:", "data.root"), ("null:", "data.limit"), ("null:", "data.label"), ("auto:", "data.crop_padding"),
        ("auto:", "data.flip"), ("auto:", "training.precision"), ("auto:", "resources.cpus_per_peer"),
        ("auto:", "resources.gpus_per_peer")))


def test_the_cifar_space_tells_of_every_key_of_a_comparison() -> None:
    told = re.findall(r"^#   (\w+): .+?   \w", CIFAR.read_text(encoding="utf-8").split("\nname:")[0], re.MULTILINE)
    assert sorted(told) == sorted(STUDY_KEYS)
