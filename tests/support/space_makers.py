"""Small settings and spaces on the digits, and assertions about refused spaces."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.settings.section import ExchangeSection
from graftpop.space import parse_space
from graftpop.space.keys import section_of

Tree = Mapping[str, Any]

SECTIONS = {
    name: section
    for name, field in Settings.model_fields.items()
    if (section := section_of(field.annotation)) is not None
}
"""Classes of all sections by name."""

RULES = [name for name, section in SECTIONS.items() if issubclass(section, ExchangeSection)]
"""Sections of all exchange rules."""

METHODS = [name for name in SECTIONS if Settings.model_fields[name].default is None]
"""Sections that are off unless they are given."""

SMALL: Tree = {
    "data": {"name": "digits", "max_train_images": 200},
    "model": {"name": "python:network_makers.TwoSites"},
    "training": {"epochs": 2, "batch_size": 64, "lr": 0.05, "schedule": "cosine", "precision": "float32"},
    "population": {"num_peers": 3},
}
"""Three peers of two sites that train for two epochs on 180 digits, without a method."""


def merged(*trees: Tree) -> dict[str, Any]:
    """Return trees merged section by section, later ones over earlier ones; None replaces a section."""
    result: dict[str, Any] = {}
    for tree in trees:
        for name, section in tree.items():
            result[name] = {**(result.get(name) or {}), **section} if isinstance(section, Mapping) else section
    return result


def make_settings(*trees: Tree, **sections: Any) -> Settings:
    """Return `SMALL` overlaid by trees and then by sections, as validated settings."""
    return Settings.model_validate(merged(SMALL, *trees, sections))


def refusal(text: str) -> str:
    """Return the message that refuses a space, without the name of its file; assert that it is one line."""
    with pytest.raises(SpaceError) as caught:
        parse_space(yaml.safe_load(text), "space.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("space.yaml: ")
    return message.removeprefix("space.yaml: ")


def assert_refused(text: str, key: str, *parts: str) -> None:
    """Assert that a space is refused in one line that starts with file and key and contains each part."""
    message = refusal(text)
    assert message.startswith(f"{key}: ")
    assert [part for part in parts if part not in message] == [], message
