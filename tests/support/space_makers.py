"""What spaces written as YAML are refused for."""

import pytest
import yaml

from graftpop.errors import SpaceError
from graftpop.space import parse_space


def refusal(text: str) -> str:
    """Return the one line with which a space is refused, less the name of its file."""
    with pytest.raises(SpaceError) as caught:
        parse_space(yaml.safe_load(text), "space.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("space.yaml: ")
    return message.removeprefix("space.yaml: ")
