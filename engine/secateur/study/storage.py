"""Where a study lies: a folder (an Optuna journal) or a database (Optuna's tables).

Several processes may have one open. What they must do one at a time they do while they hold
`StudyStorage.exclusive`; it goes when its process does, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial

from secateur.config.prune import is_database_url
from secateur.errors import BackendUnavailable, BadInput
from secateur.storage import os_errors_as_output_failed
from secateur.study.journal import Journal
from secateur.study.location import JOURNAL, STUDY_NAME, check_exists
from secateur.study.trial import EvaluatedArchitecture

DATABASES = ("postgresql", "sqlite")
_IDLE_SECONDS = 60  # a database session silent for longer inside the lock is ended by the server
_CONNECT_SECONDS = 10
_BUSY_SECONDS = 60


@dataclass(frozen=True)
class StudyStorage:
    """An open folder or database.

    Attributes:
        name: for people: no password in it.
        study_name: a database may hold several studies.
        storage: Optuna's view of it.
        exclusive: held by one thread of one process at a time; not to be entered twice.
        damaged: the error for a trial, by its number, that does not say what trials say.
    """

    name: str
    study_name: str
    storage: BaseStorage
    exclusive: Callable[[], AbstractContextManager[None]]
    damaged: Callable[[str, int], BadInput]


def read_trial(opened: StudyStorage, frozen: FrozenTrial) -> EvaluatedArchitecture:
    """A trial of a study.

    Raises:
        BadInput: it is damaged.
    """
    try:
        return EvaluatedArchitecture.from_optuna(frozen)
    except ValueError as error:
        raise opened.damaged(str(error), frozen.number) from error


def check_storage(location: str | os.PathLike[str]) -> None:
    """Check a location without opening it.

    Raises:
        BadInput: a URL of a database that is not supported, or not a URL at all.
        BackendUnavailable: the driver of the database is not installed.
    """
    if is_database_url(os.fspath(location)):
        _parse_database_url(os.fspath(location))


def open_storage(location: str | os.PathLike[str]) -> StudyStorage:
    """Open a folder, made when missing, or a database.

    Args:
        location: a folder; ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``, after a ``#`` the
            study's name in it (``secateur`` if there is none).

    Raises:
        BadInput: no such database, or none that answers.
        BackendUnavailable: the driver of the database is not installed.
        OutputFailed: there can be no such folder.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return (
        _open_database(os.fspath(location))
        if is_database_url(os.fspath(location))
        else _open_folder(Path(location))
    )


def open_existing_storage(location: str | os.PathLike[str]) -> StudyStorage:
    """Open a folder or database to look at what is there; nothing is made or written, nobody is held up.

    Raises:
        BadInput: there is nothing, or no such database.
        BackendUnavailable: the driver of the database is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if is_database_url(os.fspath(location)):
        return _open_existing_database(os.fspath(location))
    check_exists(os.fspath(location))
    folder = Path(location)
    return _in_journal(folder, Journal(folder / JOURNAL), nullcontext)  # reading takes no lock


def _open_existing_database(url_text: str) -> StudyStorage:
    url = _parse_database_url(url_text)
    name = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise BadInput("study", name, "there is no such database")  # opening would make an empty one
    with errors_as_bad_input(name):
        storage = _tables(url, skip_table_creation=True)
    return _in_database(url_text, name, storage, nullcontext)


def _open_folder(folder: Path) -> StudyStorage:
    journal = folder / JOURNAL
    with os_errors_as_output_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{JOURNAL}.lock", journal)
        claims = FileLock(folder / "claims.lock")
    lock.acquire()  # drops a torn line
    lock.release()
    return _in_journal(folder, Journal(journal, lock), claims.held)


def _in_journal(
    folder: Path, journal: Journal, exclusive: Callable[[], AbstractContextManager[None]]
) -> StudyStorage:
    return StudyStorage(str(folder), STUDY_NAME, journal.replayed(), exclusive, journal.damaged)


def _open_database(url_text: str) -> StudyStorage:
    url = _parse_database_url(url_text)
    name = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        file = Path(f"{url.database}.lock")
        with os_errors_as_output_failed(file):
            exclusive = FileLock(file).held
    else:
        exclusive = _AdvisoryLock(sqlalchemy.create_engine(url, **_engine_options(url))).held
    with errors_as_bad_input(name), exclusive():  # two that make the tables at once get in each other's way
        storage = _tables(url)
    return _in_database(url_text, name, storage, exclusive)


def _in_database(
    url_text: str, name: str, storage: BaseStorage, exclusive: Callable[[], AbstractContextManager[None]]
) -> StudyStorage:
    def damaged(reason: str, trial: int) -> BadInput:
        return BadInput("study", name, f"its trial {trial} is damaged ({reason})")

    return StudyStorage(name, _study_name_in_url(url_text), storage, exclusive, damaged)


def _tables(url: sqlalchemy.URL, **options: Any) -> RDBStorage:
    text = url.render_as_string(hide_password=False)
    return RDBStorage(text, engine_kwargs=_engine_options(url), **options)


@contextmanager
def errors_as_bad_input(name: str) -> Iterator[None]:
    """Turn what a database that is away or damaged raises into `BadInput`."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise BadInput("study", name, f"cannot be opened: {short_message(error)}") from error


def _parse_database_url(url_text: str) -> sqlalchemy.URL:
    try:
        url = sqlalchemy.make_url(url_text.partition("#")[0])
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise BadInput("study", url_text.split("@")[-1], "not a database URL") from error
    backend = url.get_backend_name()
    if backend not in DATABASES or (backend == "sqlite" and url.database in (None, "", ":memory:")):
        allowed = "a folder, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        raise BadInput("study", url.render_as_string(hide_password=True), f"allowed are {allowed}")
    if backend == "postgresql":
        if find_spec("psycopg") is None:
            raise BackendUnavailable(
                "`study`: PostgreSQL needs psycopg: pip install '.[postgres]' in a checkout of secateur"
            )
        url = url.set(drivername="postgresql+psycopg")
    return url


def _study_name_in_url(url_text: str) -> str:
    """What follows a ``#``; urllib's urldefrag would lose a slash of ``sqlite:////absolute/path``."""
    return url_text.partition("#")[2] or STUDY_NAME


def _engine_options(url: sqlalchemy.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    return {"connect_args": {"connect_timeout": _CONNECT_SECONDS}, "pool_pre_ping": True}


def short_message(error: BaseException) -> str:
    """The innermost cause in one line: Optuna and SQLAlchemy put pages around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__


class FileLock:
    """A lock that goes when its process does. Optuna's own outlives a kill and stalls the next start.

    Args:
        file: what to lock; made when missing.
        lines: a file of lines; who gets the lock finds them whole: one that a kill tore is cut off.
    """

    def __init__(self, file: Path, lines: Path | None = None) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        weakref.finalize(self, os.close, self._descriptor)
        self._lines = lines
        self._threads = threading.Lock()

    def acquire(self) -> bool:
        self._threads.acquire()
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if self._lines is not None:
            _drop_torn_line(self._lines)
        return True

    def release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._threads.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around what one does at a time."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


class _AdvisoryLock:
    """PostgreSQL's lock for whoever shares a database; it ends with its transaction."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._key = zlib.crc32(b"secateur")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around what one does at a time."""
        with self._engine.begin() as connection:
            limit = f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'"
            connection.execute(sqlalchemy.text(limit))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._key})
            yield


def _drop_torn_line(file: Path) -> None:
    """Cut a file after its last complete line; what follows was being written when its process died."""
    if not file.is_file() or file.stat().st_size == 0:
        return
    with file.open("rb+") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        whole = stream.read().rfind(b"\n") + 1
        stream.truncate(whole)
        os.fsync(stream.fileno())
