"""A database of SQLAlchemy that needs a password: a SQLite file behind `guarded://me:PASSWORD@host/FILE`."""

from typing import Any

from sqlalchemy import URL
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

__all__ = ["PASSWORD"]

PASSWORD = "b1c4d9f0"


class Guarded(SQLiteDialect_pysqlite):
    """SQLite behind a password."""

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> Any:
        """Return the arguments of `sqlite3.connect`."""
        assert url.password == PASSWORD
        return [url.database], {}


registry.register("guarded", __name__, "Guarded")
