"""Passwords and keys of URLs, masked before they are printed or written."""

import re

__all__ = ["MASK", "masked", "masked_words"]

MASK = "***"

_PASSWORD = re.compile(r"(://[^/?#:@]*:)[^@]*(?:@[^/?@]*)*(?=@)")
"""The password of SCHEME://USER:PASSWORD@HOST, even with a raw / or ? in it."""

_OPTION = re.compile(
    r"([?&][^?&=]*(?:passw|passphrase|pwd|secret|token|signature|credential|(?:access|account|api|private)_?key)"
    r"[^?&=]*=)[^&'\"]*",
    re.IGNORECASE,
)
"""A secret after the question mark of a URL, such as `&secret_key=SECRET`."""


def masked(url: str) -> str:
    """Return a URL, or an argument with one, with `***` in place of its secrets; other text is unchanged.

    >>> masked("postgresql://me:1234@host/studies?sslpassword=5")
    'postgresql://me:***@host/studies?sslpassword=***'
    """
    if "://" not in url:
        return url
    return _OPTION.sub(rf"\1{MASK}", _PASSWORD.sub(rf"\1{MASK}", url))


def masked_words(text: str) -> str:
    """Return a text with every URL in it masked; URLs end at blanks."""
    return re.sub(r"\S*://\S+", lambda word: masked(word[0]), text) if "://" in text else text
