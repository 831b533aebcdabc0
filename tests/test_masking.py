"""Secrets in URLs are masked wherever they stand; everything else is unchanged."""

import pytest

from graftpop.errors import GraftpopError, one_line
from graftpop.masking import masked, masked_words


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:1234@host/studies", "postgresql://me:***@host/studies"),
        ("postgresql+psycopg://me:12/3?4@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("mysql://me:12@34@host/db", "mysql://me:***@host/db"),
        ("redis://:1234@host", "redis://:***@host"),
        (
            "postgresql://host/db?user=me&password=1234&sslmode=on",
            "postgresql://host/db?user=me&password=***&sslmode=on",
        ),
        ("s3://AKIA1:1234@bucket/run?region=eu", "s3://AKIA1:***@bucket/run?region=eu"),
        (
            "s3://bucket/run?access_key=12&secret_key=34&region=eu",
            "s3://bucket/run?access_key=***&secret_key=***&region=eu",
        ),
        ("tune.optuna_storage=postgresql://me:1 2@host/db", "tune.optuna_storage=postgresql://me:***@host/db"),
    ],
)
def test_secret_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "study.log",
        "sqlite:////data/all:me@work.db",
        "postgresql://me@host:5432/studies",
        "s3://bucket/a:b@c?scheme=http&endpoint_override=127.0.0.1%3A9000",
        "graft={A: 0.4} me:1234@host",
    ],
)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert masked(text) == text
    assert masked_words(text) == text


def test_every_url_in_a_text_is_masked_in_place() -> None:
    text = "cannot reach 'http://a:12@one/x',  nor ['s3://b:34@two'] from http://127.0.0.1:8265 as me@home"
    shown = "cannot reach 'http://a:***@one/x',  nor ['s3://b:***@two'] from http://127.0.0.1:8265 as me@home"
    assert masked_words(text) == shown


def test_errors_for_users_are_masked() -> None:
    for text in (str(GraftpopError("--out s3://a:1234@b: no")), one_line(OSError("s3://a:1234@b: no"))):
        assert "s3://a:***@b: no" in text
        assert "1234" not in text
