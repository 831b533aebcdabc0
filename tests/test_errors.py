"""Messages of errors: one line, printable, with the line of user code."""

from typing import Any

import pytest

from graftpop.errors import GraftpopError, describe_exception, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m and \x9b2Jcleared", "red and cleared"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link", "alink"),
        ("a\0b\x7fc\x1b", "abc"),
        ("half \ud83d of größe 😀", "half  of größe 😀"),
        ("two\nlines\r\nand\tmore", "two lines and\tmore"),
    ],
)
def test_message_is_one_printable_line(text: str, shown: str) -> None:
    assert str(GraftpopError(text)) == shown
    assert one_line(text) == " ".join(shown.split())


def test_exception_has_the_last_line_of_user_code() -> None:
    with pytest.raises(ValueError, match="'x'") as found:
        int("x")
    assert describe_exception(found.value).endswith(f"'x' (test_errors.py:{found.traceback[0].lineno + 1})")


def test_user_code_in_a_folder_called_torch_is_named() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def forward():\n    raise ValueError('x')", "/home/me/torch/net.py", "exec"), namespace)
    with pytest.raises(ValueError, match="x") as found:
        namespace["forward"]()
    assert describe_exception(found.value).endswith("x (net.py:2)")
