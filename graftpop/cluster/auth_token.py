"""The file of Ray's authentication token. Anyone who can read it can run code as the owner of the cluster."""

import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["protect_token", "read_token"]

OTHERS: Final = 0o077
"""Permissions of group and others."""

logger = logging.getLogger("graftpop")


def protect_token(*, create: bool) -> None:
    """Make Ray's token file and its folder private; Ray itself creates both readable by all users of the machine.

    Ray takes RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH, which is left as it is, else ~/.ray/auth_token.

    Args:
        create: whether to create the token if there is none.

    Raises:
        OSError: the token cannot be created.
    """
    is_off = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if is_off or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    file = Path.home() / ".ray" / "auth_token"
    for path in (file.parent, file):  # nobody can replace the file once its folder is private
        if path.exists() and path.stat().st_mode & OTHERS:
            _tighten(path)
    if create and not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # complete from the first moment, since another study may start at the same time; private under any umask
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix="auth_token.") as whole:
            whole.write(secrets.token_hex(32))
            whole.flush()
            with suppress(FileExistsError):
                os.link(whole.name, file)


def read_token() -> str:
    """Return the token that Ray uses on this machine, from the first of its three places; empty if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def _tighten(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    try:
        path.chmod(mode & ~OTHERS)
        outcome = f"is now {mode & ~OTHERS:o}"
    except OSError as error:
        outcome = f"cannot be changed: {error.strerror}"
    logger.warning(
        "%s: other users of this machine could take Ray's token and run code as you, mode %o %s; for a new token, "
        "remove ~/.ray/auth_token while no Ray uses it",
        path,
        mode,
        outcome,
    )
