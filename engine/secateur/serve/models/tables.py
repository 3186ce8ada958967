"""Which models a server has, in its database; ``home`` is whose they are (`models.home`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from secateur.serve.state import Base


class ModelRow(Base):
    """A model.

    Attributes:
        active, previous: versions; None while there is none.
        numbered: how many versions were ever made.
        given: folder and fingerprint that the command line gave; empty if it was made through the API.
    """

    __tablename__ = "served_models"

    home: Mapped[str] = mapped_column(primary_key=True, default="")
    name: Mapped[str] = mapped_column(primary_key=True)
    active: Mapped[str | None] = mapped_column(default=None)
    previous: Mapped[str | None] = mapped_column(default=None)
    numbered: Mapped[int] = mapped_column(default=0)
    given: Mapped[str] = mapped_column(default="")


class VersionRow(Base):
    """A version of a model.

    Attributes:
        loaded: somebody wants it in memory.
        created_at: seconds since 1970.
    """

    __tablename__ = "served_versions"

    home: Mapped[str] = mapped_column(primary_key=True, default="")
    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str]
    fingerprint: Mapped[str]
    loaded: Mapped[bool]
    created_at: Mapped[float]


class AliasRow(Base):
    """Another name of a model."""

    __tablename__ = "served_aliases"

    home: Mapped[str] = mapped_column(primary_key=True, default="")
    alias: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]


Row = TypeVar("Row", ModelRow, VersionRow, AliasRow)


@dataclass(frozen=True)
class StoredModels:
    """Everything there is; versions by the name of their model, in the order they were made."""

    models: list[ModelRow] = field(default_factory=list)
    versions: dict[str, list[VersionRow]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


class ModelStore:
    """Reads and writes the tables; every method blocks, and is one transaction.

    Args:
        sessions: of the database.
        home: whose models; servers may share a database.
    """

    def __init__(self, sessions: sessionmaker[Session], home: str) -> None:
        self._sessions = sessions
        self._home = home

    def read(self) -> StoredModels:
        with self._sessions() as session:
            models = list(session.scalars(self._all(ModelRow).order_by(ModelRow.name)))
            versions: dict[str, list[VersionRow]] = {model.name: [] for model in models}
            for row in sorted(session.scalars(self._all(VersionRow)), key=lambda row: int(row.version)):
                versions.setdefault(row.model, []).append(row)
            aliases = {row.alias: row.model for row in session.scalars(self._all(AliasRow))}
        return StoredModels(models, versions, aliases)

    def write(self, remembered: StoredModels) -> None:
        """Write everything, in place of what there was."""
        aliases = [AliasRow(alias=alias, model=to) for alias, to in remembered.aliases.items()]
        with self._sessions.begin() as session:
            for table in (VersionRow, AliasRow, ModelRow):
                session.execute(delete(table).where(table.home == self._home))
            self._add(session, *remembered.models, *aliases)
            self._add(session, *(row for rows in remembered.versions.values() for row in rows))

    def put(self, model: ModelRow, *versions: VersionRow) -> None:
        """Write a model, and some of its versions."""
        with self._sessions.begin() as session:
            self._add(session, model, *versions)

    def set_loaded(self, model: str, version: str, loaded: bool) -> None:
        """Remember whether a version is wanted in memory."""
        with self._sessions.begin() as session:
            session.execute(update(VersionRow).where(*self._version(model, version)).values(loaded=loaded))

    def forget_version(self, model: ModelRow, version: str) -> None:
        """Write a model without one of its versions."""
        with self._sessions.begin() as session:
            self._add(session, model)
            session.execute(delete(VersionRow).where(*self._version(model.name, version)))

    def forget_model(self, name: str) -> None:
        """Remove a model with its versions and aliases."""
        with self._sessions.begin() as session:
            for table, column in (
                (VersionRow, VersionRow.model),
                (AliasRow, AliasRow.model),
                (ModelRow, ModelRow.name),
            ):
                session.execute(delete(table).where(table.home == self._home, column == name))

    def put_alias(self, alias: str, model: str) -> None:
        with self._sessions.begin() as session:
            self._add(session, AliasRow(alias=alias, model=model))

    def forget_alias(self, alias: str) -> None:
        with self._sessions.begin() as session:
            session.execute(delete(AliasRow).where(AliasRow.home == self._home, AliasRow.alias == alias))

    def forget_all(self) -> None:
        self.write(StoredModels())

    def _all(self, table: type[Row]) -> Select[Row]:
        return select(table).where(table.home == self._home)

    def _version(self, model: str, version: str) -> tuple[ColumnElement[bool], ...]:
        return VersionRow.home == self._home, VersionRow.model == model, VersionRow.version == version

    def _add(self, session: Session, *rows: ModelRow | VersionRow | AliasRow) -> None:
        for row in rows:
            row.home = self._home
            session.merge(row)
