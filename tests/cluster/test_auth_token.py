"""Ray's token file is private from its first moment; one that is not becomes so."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftpop.cluster.auth_token import protect_token, read_token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The token file of a new home, in a process that lets everyone read and write its files."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    mask = os.umask(0)
    yield tmp_path / ".ray" / "auth_token"
    os.umask(mask)


def modes(token: Path) -> tuple[int, int]:
    return token.parent.stat().st_mode & 0o777, token.stat().st_mode & 0o777


def test_token_is_created_private(token: Path, caplog: pytest.LogCaptureFixture) -> None:
    protect_token(create=True)
    assert modes(token) == (0o700, 0o600)
    assert len(bytes.fromhex(token.read_text())) == 32
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    assert caplog.messages == []


def test_existing_token_is_kept_and_made_private_with_a_warning(token: Path, caplog: pytest.LogCaptureFixture) -> None:
    token.parent.mkdir(mode=0o755)
    token.write_text("1" * 64)
    with caplog.at_level(logging.WARNING, "graftpop"):
        protect_token(create=False)
        assert modes(token) == (0o700, 0o600)
        for path, mode in ((token.parent, "755"), (token, "666")):
            (message,) = [one for one in caplog.messages if one.startswith(f"{path}: ")]
            assert mode in message
        caplog.clear()
        protect_token(create=True)
    assert token.read_text() == "1" * 64
    assert caplog.messages == []


def test_without_a_cluster_to_start_no_token_is_created(token: Path) -> None:
    protect_token(create=False)
    assert not token.parent.exists()


def test_token_is_read_where_ray_reads_it(token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token() == ""
    protect_token(create=True)
    assert read_token() == token.read_text()
    (tmp_path / "other").write_text("1" * 64 + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert read_token() == "1" * 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", "2" * 64)
    assert read_token() == "2" * 64


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_token_of_the_environment_needs_no_file(token: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "disabled")
    protect_token(create=True)
    assert not token.parent.exists()
