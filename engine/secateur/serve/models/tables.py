"""Which models a server has, in its database."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from secateur.serve.state import Base


class ModelRow(Base):
    """A model.

    Attributes:
        active, previous: versions; None while there is none.
        numbered: how many versions were ever made.
        given: folder and fingerprint that the command line gave; empty if it was made through the API.
    """

    __tablename__ = "models"

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

    __tablename__ = "model_versions"

    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str]
    fingerprint: Mapped[str]
    loaded: Mapped[bool]
    created_at: Mapped[float]


class AliasRow(Base):
    """Another name of a model."""

    __tablename__ = "model_aliases"

    alias: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]


@dataclass(frozen=True)
class Remembered:
    """Everything there is; versions by the name of their model, in the order they were made."""

    models: list[ModelRow] = field(default_factory=list)
    versions: dict[str, list[VersionRow]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


class Store:
    """Reads and writes the tables; every method blocks, and is one transaction."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def read(self) -> Remembered:
        """Return everything."""
        with self._sessions() as session:
            models = list(session.scalars(select(ModelRow).order_by(ModelRow.name)))
            versions: dict[str, list[VersionRow]] = {model.name: [] for model in models}
            for row in sorted(session.scalars(select(VersionRow)), key=lambda row: int(row.version)):
                versions.setdefault(row.model, []).append(row)
            aliases = {row.alias: row.model for row in session.scalars(select(AliasRow))}
        return Remembered(models, versions, aliases)

    def write(self, remembered: Remembered) -> None:
        """Write everything, in place of what there was."""
        with self._sessions.begin() as session:
            for table in (VersionRow, AliasRow, ModelRow):
                session.execute(delete(table))
            session.add_all(remembered.models)
            session.add_all(row for rows in remembered.versions.values() for row in rows)
            session.add_all(AliasRow(alias=alias, model=to) for alias, to in remembered.aliases.items())

    def put(self, model: ModelRow, *versions: VersionRow) -> None:
        """Write a model, and some of its versions."""
        with self._sessions.begin() as session:
            for row in (model, *versions):
                session.merge(row)

    def set_loaded(self, model: str, version: str, loaded: bool) -> None:
        """Remember whether a version is wanted in memory."""
        with self._sessions.begin() as session:
            which = (VersionRow.model == model, VersionRow.version == version)
            session.execute(update(VersionRow).where(*which).values(loaded=loaded))

    def forget_version(self, model: ModelRow, version: str) -> None:
        """Write a model without one of its versions."""
        with self._sessions.begin() as session:
            session.merge(model)
            session.execute(
                delete(VersionRow).where(VersionRow.model == model.name, VersionRow.version == version)
            )

    def forget_model(self, name: str) -> None:
        """Remove a model with its versions and aliases."""
        with self._sessions.begin() as session:
            session.execute(delete(VersionRow).where(VersionRow.model == name))
            session.execute(delete(AliasRow).where(AliasRow.model == name))
            session.execute(delete(ModelRow).where(ModelRow.name == name))

    def put_alias(self, alias: str, model: str) -> None:
        """Write an alias."""
        with self._sessions.begin() as session:
            session.merge(AliasRow(alias=alias, model=model))

    def forget_alias(self, alias: str) -> None:
        """Remove an alias."""
        with self._sessions.begin() as session:
            session.execute(delete(AliasRow).where(AliasRow.alias == alias))
