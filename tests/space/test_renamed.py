"""Old names of keys and values are refused with their new names in files, variants and overrides."""

from pathlib import Path
from typing import Any

import pytest

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space import load_space, parse_space
from graftpop.space.keys import known_keys
from graftpop.space.renamed import RENAMED_KEYS, RENAMED_VALUES, new_name

OF_STUDY = "published.accuracy"
KEYS = {
    **{old: new for old, new in RENAMED_KEYS.items() if "." in old and old != OF_STUDY},
    **{
        f"measures.{name}": f"diagnostics.{name}" for name in ("thresholds", "density_of", "density_threshold", "pairs")
    },
}
VALUES = [(key, old, new) for key, values in RENAMED_VALUES.items() for old, new in values.items()]


def nested(key: str, value: Any) -> dict[str, Any]:
    section, _, name = key.partition(".")
    return {section: {name: value}}


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(SpaceError) as caught:
        parse_space(tree, "space.yaml")
    return str(caught.value)


@pytest.mark.parametrize(("old", "new"), KEYS.items())
def test_old_key_is_refused_with_its_new_name(old: str, new: str, tmp_path: Path) -> None:
    assert new in known_keys(Settings)
    assert old not in known_keys(Settings)
    message = refusal(nested(old, 1))
    assert message.startswith("space.yaml: ")
    assert "renamed" in message
    assert new in message or message.endswith(f" {new.partition('.')[0]}")
    message = refusal({"variants": {"a": nested(old, 1)}})
    assert "variants.a." in message
    assert "renamed" in message
    file = tmp_path / "space.yaml"
    file.write_text("variants: {a: }\n")
    for prefix in ("", "variants.a."):
        with pytest.raises(SpaceError, match=f"renamed.* {prefix}{new}$") as caught:
            load_space(file, [f"{prefix}{old}=1"])
        assert str(caught.value).startswith(f"--set {prefix}{old}=1: ")


def test_old_key_of_a_comparison_is_refused_with_its_new_name(tmp_path: Path) -> None:
    published = {"source": "Table 1", "accuracy": [{"variant": "a", "percent": 90}]}
    message = refusal({"variants": {"a": None}, "published": published})
    assert message.startswith(f"space.yaml: {OF_STUDY}: renamed")
    assert "published.scores" in message
    file = tmp_path / "space.yaml"
    file.write_text("variants: {a: }\n")
    with pytest.raises(SpaceError, match=r"published\.scores$") as caught:
        load_space(file, [f"{OF_STUDY}=[]"])
    assert str(caught.value).startswith(f"--set {OF_STUDY}=[]: ")


@pytest.mark.parametrize(("key", "old", "new"), VALUES)
def test_old_value_is_refused_with_its_new_name(key: str, old: str, new: str, tmp_path: Path) -> None:
    for value in (old, {"choice": [new, old]}):
        message = refusal(nested(key, value))
        assert message.startswith(f"space.yaml: {key}: {old} ")
        assert message.endswith(f" {new}")
    file = tmp_path / "space.yaml"
    file.write_text("")
    with pytest.raises(SpaceError, match=f"renamed.* {new}$") as caught:
        load_space(file, [f"{key}={old}"])
    assert str(caught.value).startswith(f"--set {key}={old}: ")


def test_old_key_in_an_override_names_the_override(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("")
    with pytest.raises(SpaceError, match=r"renamed.* data\.max_train_images$") as caught:
        load_space(file, ["data={limit: 9}"])
    assert str(caught.value).startswith("--set data={limit: 9}: ")


def test_current_keys_have_no_new_name() -> None:
    assert [new_name(key) for key in known_keys(Settings)] == [None] * len(list(known_keys(Settings)))


@pytest.mark.parametrize(
    "tree", [{"data": None}, {"variants": []}, {"variants": {"a": []}}, {"population": {"mode": {}}}]
)
def test_malformed_spaces_are_refused_by_other_checks(tree: dict[str, Any]) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(tree, "space.yaml")
    assert "renamed" not in str(caught.value)
