"""The local target's memory: one SQLite file, readable whatever happened to the process that wrote it.

`executions` and `steps` are rows, since they are updated while others read them; everything else that SageMaker would
keep (pipelines, jobs, models, endpoints, ...) is a JSON document under its kind and name. Write-ahead logging lets any
number of processes share the file; each change is one transaction. The rows of `catalog`, one for each document and
execution, have what lists are filtered and ordered by, so that a page of many is found without reading the documents;
triggers keep them.

Beside it lies a reserve of two megabytes that is given up piece by piece when the disk is full, so that the end of the
steps, and why they failed, can still be recorded.
"""

import errno
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import ServiceError, UsageError

Document = dict[str, Any]
Conditions = Sequence[tuple[str, Sequence[Any]]]
Found = tuple[tuple[Any, int], Document]

RESERVE, RESERVE_BYTES, PIECE_BYTES = "state.reserve", 2 << 20, 256 << 10
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE_IN_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE)
NO_PERMISSION = "you need the permission to read and write it and its folder"
REMEDIES = {  # of what SQLite says; any other error is of a file that is damaged
    sqlite3.SQLITE_BUSY: "end the process that holds it",
    **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM), NO_PERMISSION),
}
SCHEMA, SCHEMA_VERSION = Path(__file__).with_name("schema.sql"), 2


def found_by(kind: str, conditions: Conditions, sort: str = "") -> tuple[str, list[Any]]:
    """Return SQL of the catalog's rows `c` of a kind that meet all conditions, and its values."""
    is_read = any("d.document" in text for text in (sort, *(condition for condition, _ in conditions)))
    where = " AND ".join(["c.kind = ?", *(f"({condition})" for condition, _ in conditions)])
    values = [kind, *(value for _, given in conditions for value in given)]
    return f"FROM catalog AS c {document_of(kind) if is_read else ''} WHERE {where}", values


def document_of(kind: str) -> str:
    """Return SQL that joins the documents `d` to rows of the catalog."""
    if kind == "PipelineExecution":
        return "JOIN executions AS d ON d.arn = c.name"
    return "JOIN resources AS d ON d.kind = c.kind AND d.name = c.name"


class DiskFull(ServiceError):
    """There is no room left on a home's disk."""

    def __init__(self, home: Path) -> None:
        existing = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
        disk = next(folder for folder in (existing, *existing.parents) if os.path.ismount(folder))
        room = shutil.disk_usage(disk)
        super().__init__(
            f"The disk {disk}, on which {home} lies, is full ({room.free >> 20} of {room.total >> 20} MB free); "
            "make room there, then `run` or `retry` again."
        )


def is_full(problem: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that a disk is full."""
    if problem is None:
        return False
    if isinstance(problem, BaseExceptionGroup) and any(map(is_full, problem.exceptions)):  # of a search's trials
        return True
    if isinstance(problem, DiskFull) or (isinstance(problem, OSError) and problem.errno in NO_SPACE):
        return True
    if isinstance(problem, sqlite3.Error) and getattr(problem, "sqlite_errorcode", 0) in NO_SPACE_IN_SQLITE:
        return True
    return is_full(problem.__cause__ or problem.__context__)


def was_full(home: Path) -> bool:
    """Return whether there is hardly any room, or was none since the reserve was last whole."""
    reserve = home / RESERVE
    is_broken = reserve.exists() and reserve.stat().st_size < RESERVE_BYTES
    return is_broken or shutil.disk_usage(home).free < PIECE_BYTES


class State:
    """Reads and writes `state.db` of one home.

    Whatever SQLite cannot do is raised as a sentence: DiskFull, or UsageError for a file that is damaged, another
    user's or another release's.
    """

    def __init__(self, home: Path, *, create: bool = True) -> None:
        """Open the file, made if need be; without `create`, what is not there is an empty state in memory."""
        self.home = home
        self.start_options: Document = {}  # of this process's executions: cache, tied; not stored
        self.client = "API"  # by which records are made: command line, schedule, studio, API
        self.lock = threading.RLock()
        try:
            if create or (home.exists() and not home.is_dir()):
                home.mkdir(parents=True, exist_ok=True)
            is_stored = create or (home / "state.db").exists()
            place = home / "state.db" if is_stored else ":memory:"
            with self.explained():
                self.connection = sqlite3.connect(place, timeout=60, isolation_level=None, check_same_thread=False)
                self.rows("PRAGMA synchronous=NORMAL")
                self.prepare() if is_stored else self.make_tables()
        except FileExistsError as problem:
            raise UsageError(f"{home} is not a folder; choose another place by --home.") from problem
        except OSError as problem:
            if is_full(problem):
                raise DiskFull(home) from problem
            raise UsageError(f"{home} cannot be written ({problem.strerror}); choose another by --home.") from problem

    def prepare(self) -> None:
        """Make or renew the tables, one process at a time, and set the reserve aside while there is room."""
        if self.schema_version() < SCHEMA_VERSION:
            with (self.home / "state.lock").open("a") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # SQLite does not wait while the mode changes
                self.rows("PRAGMA journal_mode=WAL")
                if self.schema_version() < SCHEMA_VERSION:
                    self.make_tables()
        if (version := self.schema_version()) != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it was made by another release: version {version}, not {SCHEMA_VERSION}")
        reserve = self.home / RESERVE
        is_whole = reserve.exists() and reserve.stat().st_size == RESERVE_BYTES
        if not is_whole and shutil.disk_usage(self.home).free > 2 * RESERVE_BYTES:
            with suppress(OSError), reserve.open("ab") as stream:
                os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)

    def make_tables(self) -> None:
        """Make the tables, or bring those of version 1 up to date: all of it or nothing."""
        with self.explained(), self.connection:  # rolls back what fails
            self.connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA.read_text()}COMMIT;")

    def schema_version(self) -> int:
        """Return the version of the tables in the file, 0 when it has none yet."""
        return int(self.rows("PRAGMA user_version")[0][0])

    def give_up_reserve(self) -> bool:
        """Make room for a few records; whether there was any left to give."""
        reserve = self.home / RESERVE
        with suppress(OSError):
            left = reserve.stat().st_size
            os.truncate(reserve, max(0, left - PIECE_BYTES))
            return left > 0
        return False

    def user_context(self) -> Document:
        """Return who makes records here, and by what, as the service's UserContext."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # it has no name on this machine
            user = str(os.getuid())
        return {"UserProfileName": user, "IamIdentity": {"SourceIdentity": self.client}}

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What SQLite says within the block, as a sentence."""
        try:
            yield
        except (UnicodeEncodeError, OverflowError) as problem:
            raise UsageError(f"SQLite holds no such value: {problem}.") from problem
        except sqlite3.Error as problem:
            if is_full(problem):
                raise DiskFull(self.home) from problem
            code, place = getattr(problem, "sqlite_errorcode", 0) & 0xFF, self.home / "state.db"
            remedy = REMEDIES.get(code, "remove it to start anew")
            raise UsageError(f"{place} cannot be used ({problem}); {remedy}, or choose another --home.") from problem

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; no other process writes meanwhile. One within another is part of it."""
        with self.lock:
            if self.connection.in_transaction:
                yield
                return
            with suppress(OSError):  # of a home that is not there
                if shutil.disk_usage(self.home).free < PIECE_BYTES:
                    self.give_up_reserve()  # in time: SQLite may roll back a transaction that meets a full disk
            self.rows("BEGIN IMMEDIATE")
            with self.connection:  # rolls back what fails
                yield
                self.rows("COMMIT")

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, no other thread's in between; its rows. On a full disk the reserve is given up for it."""
        with self.lock, self.explained():
            while True:
                try:
                    return self.connection.execute(statement, values).fetchall()
                except sqlite3.OperationalError as problem:
                    if not is_full(problem) or not self.give_up_reserve():
                        raise

    def documents(self, where: str, *values: str | None) -> Iterator[Document]:
        """Return the documents of a table's rows, all read at once."""
        return (json.loads(row[0]) for row in self.rows(f"SELECT document FROM {where}", values))

    def put(self, kind: str, name: str, document: Document) -> None:
        """Create or replace a document; the time of creation is kept."""
        self.rows(
            "INSERT INTO resources VALUES (?, ?, ?, ?) "
            "ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document",
            (kind, name, json.dumps(document), time.time()),
        )

    def get(self, kind: str, name: str) -> Document | None:
        """The document, or None."""
        return next(self.documents("resources WHERE kind = ? AND name = ?", kind, name), None)

    def delete(self, kind: str, name: str) -> None:
        """Forget the document, if there is one."""
        self.rows("DELETE FROM resources WHERE kind = ? AND name = ?", (kind, name))

    def all(self, kind: str) -> list[Document]:
        """Every document of a kind, oldest first."""
        return list(self.documents("resources WHERE kind = ? ORDER BY created, rowid", kind))

    def with_status(self, kind: str, *statuses: str) -> list[Document]:
        """Documents of a kind in one of these statuses, oldest first."""
        condition = f"c.status IN ({', '.join('?' * len(statuses))})", statuses
        return [document for _, document in self.page(kind, [condition], sort="c.id", is_descending=False)]

    def change(self, kind: str, name: str, edit: Callable[[Document], None]) -> Document:
        """Read, edit and write a document in one transaction; KeyError if there is none."""
        with self.transaction():
            document = self.get(kind, name)
            if document is None:
                raise KeyError(name)
            edit(document)
            self.put(kind, name, document)
        return document

    def page(
        self,
        kind: str,
        conditions: Conditions,
        *,
        sort: str = "c.time",
        is_descending: bool = True,
        after: Any = None,
        limit: int = -1,
    ) -> list[Found]:
        """Return documents that meet all conditions, ordered by SQL and then by age, each with its key.

        SQL is on the catalog's row `c` and its `d.document`. Those after a key are returned, so many at most.
        """
        order, sign = ("DESC", "<") if is_descending else ("ASC", ">")
        if after is not None:
            conditions = [*conditions, (f"({sort}, c.id) {sign} (?, ?)", after)]
        found, values = found_by(kind, conditions, sort)
        keys = f"SELECT {sort} AS key, c.id, c.kind, c.name {found} ORDER BY key {order}, c.id {order} LIMIT ?"
        statement = (
            f"SELECT key, c.id, d.document FROM ({keys}) AS c {document_of(kind)} ORDER BY key {order}, c.id {order}"
        )
        return [((key, number), json.loads(text)) for key, number, text in self.rows(statement, (*values, limit))]

    def count(self, kind: str, conditions: Conditions) -> int:
        """Return how many documents of a kind meet all conditions."""
        found, values = found_by(kind, conditions)
        return int(self.rows(f"SELECT count(*) {found}", values)[0][0])

    def add_execution(self, document: Document) -> None:
        """A new execution; its definition, which many share, lies under its digest."""
        definition = document["Definition"]
        digest = hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:32]
        stored = {name: value for name, value in document.items() if name != "Definition"}
        names = ("PipelineExecutionArn", "PipelineName", "PipelineExecutionStatus", "CreationTime")
        values = (*(document[name] for name in names), json.dumps({**stored, "DefinitionDigest": digest}))
        with self.transaction():
            if self.get("Definition", digest) is None:
                self.put("Definition", digest, definition)
            self.rows("INSERT INTO executions VALUES (?, ?, ?, ?, ?)", values)

    def definition(self, execution: Document) -> Document:
        """Return the definition that an execution was started with."""
        return self.get("Definition", execution["DefinitionDigest"]) or {}

    def execution(self, arn: str) -> Document | None:
        """One execution, or None."""
        return next(self.documents("executions WHERE arn = ?", arn), None)

    def update_execution(self, arn: str, **changes: Any) -> Document:
        """Change some values of an execution."""
        with self.transaction():
            document = {**(self.execution(arn) or {}), **changes, "LastModifiedTime": time.time()}
            values = (document["PipelineExecutionStatus"], json.dumps(document), arn)
            self.rows("UPDATE executions SET status = ?, document = ? WHERE arn = ?", values)
        return document

    def put_step(self, execution: str, document: Document) -> None:
        """Create or replace the record of a step; `document` has StepName."""
        self.rows(
            "INSERT INTO steps (execution, name, document) VALUES (?, ?, ?) "
            "ON CONFLICT (execution, name) DO UPDATE SET document = excluded.document",
            (execution, document["StepName"], json.dumps(document)),
        )

    def delete_step(self, execution: str, name: str) -> None:
        """Forget a step, so that a retry can start it anew."""
        self.rows("DELETE FROM steps WHERE execution = ? AND name = ?", (execution, name))

    def steps(self, execution: str) -> list[Document]:
        """The steps that were started, in that order."""
        return list(self.documents("steps WHERE execution = ? ORDER BY rowid", execution))
