"""Small settings and spaces on the digits, and the line with which a space is refused."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space import Space, parse_space

Tree = Mapping[str, Any]

SMALL: Tree = {
    "data": {"name": "digits", "max_train_images": 200},
    "model": {"name": "resnet8"},
    "training": {"epochs": 2, "batch_size": 64, "lr": 0.05, "schedule": "cosine", "precision": "float32"},
    "population": {"num_peers": 3},
}
"""Three peers that train for two epochs on 180 digits, without any method."""


def merged(*trees: Tree) -> dict[str, Any]:
    """Return trees laid over each other, section by section; a section that is None is None afterwards."""
    result: dict[str, Any] = {}
    for tree in trees:
        for name, section in tree.items():
            result[name] = None if section is None else {**(result.get(name) or {}), **section}
    return result


def make_settings(*trees: Tree, **sections: Any) -> Settings:
    """Return `SMALL` with trees and then sections over it, as validated settings."""
    return Settings.model_validate(merged(SMALL, *trees, sections))


def make_space(*trees: Tree, **sections: Any) -> Space:
    """Return `SMALL` with trees and then sections over it, as a space: values may be domains."""
    return parse_space(merged(SMALL, *trees, sections))


def refusal(text: str) -> str:
    """Return the one line with which a space is refused, less the name of its file."""
    with pytest.raises(SpaceError) as caught:
        parse_space(yaml.safe_load(text), "space.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("space.yaml: ")
    return message.removeprefix("space.yaml: ")
