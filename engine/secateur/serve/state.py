"""What a server must not forget: one database for its models and jobs.

Each part of the server maps its own tables on `Base`; `open_state` creates those that are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from secateur.errors import BadInput

BUSY_SECONDS = 10


class Base(DeclarativeBase):
    """Of all tables."""


def check_state_url(url: str) -> None:
    """Check what can be known of a database without opening it.

    Raises:
        BadInput: not a URL, or of a kind that SQLAlchemy does not know.
    """
    try:
        make_url(url).get_dialect()
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        raise BadInput("state", url, f"cannot be opened: {' '.join(str(error).split())[:200]}") from error


def open_state(url: str) -> sessionmaker[Session]:
    """Open the database and create the tables that are missing.

    Args:
        url: ``sqlite:///FILE`` (the folder is made) or ``postgresql+psycopg://...``.

    Raises:
        BadInput: not a URL, or the database cannot be opened.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            file = Path(str(parsed.database)).expanduser().absolute()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # what SQLite writes beside it gets the same mode
        engine = sqlalchemy.create_engine(parsed)
        if parsed.get_backend_name() == "sqlite":
            event.listen(engine, "connect", _durable)
        Base.metadata.create_all(engine)
    except (sqlalchemy.exc.SQLAlchemyError, OSError, ImportError) as error:
        raise BadInput("state", url, f"cannot be opened: {' '.join(str(error).split())[:200]}") from error
    return sessionmaker(engine, expire_on_commit=False)


def _durable(connection: Any, _: Any) -> None:
    """Let readers and one writer work at once; wait for a lock instead of failing."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys=ON")
