"""The local target's memory: one SQLite file, readable whatever happened to the process that wrote it.

`executions` and `steps` are rows, since they are updated while others read them; everything else that SageMaker would
keep (pipelines, jobs, models, endpoints, ...) is a JSON document under its kind and name. Write-ahead logging lets any
number of processes share the file; each change is one transaction.
"""

import contextlib
import fcntl
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.local.store.disk import DiskFull, give_up_reserve, is_full, keep_reserve

Document = dict[str, Any]

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
  kind TEXT, name TEXT, document TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS executions (
  arn TEXT PRIMARY KEY, pipeline TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
  execution TEXT, name TEXT, position INTEGER, document TEXT NOT NULL, PRIMARY KEY (execution, name));
CREATE TABLE IF NOT EXISTS cache (
  key TEXT PRIMARY KEY, created REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS digests (
  path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL);
"""


class State:
    """Reads and writes `state.db` of one home.

    Whatever SQLite cannot do is raised as a sentence: DiskFull, or UsageError for a file that is damaged, another
    user's or another release's.
    """

    def __init__(self, home: Path, *, create: bool = True) -> None:
        """Open the file, made if need be; without `create`, what is not there is an empty state in memory.

        Raises:
            UsageError: the home cannot hold it, or it is not readable.
            DiskFull: there is no room for it.
        """
        self.home = home
        self.start_options: Document = {}  # of this process's executions: cache, tied; not stored
        self.lock = threading.RLock()
        self.is_copy = False
        try:
            if create or home.exists():
                home.mkdir(parents=True, exist_ok=True)
            with self.explained():
                stored = create or (home / "state.db").exists()
                self.connection = self.opened() if stored else empty()
        except FileExistsError as problem:
            raise UsageError(f"{home} is not a folder; choose another place by --home.") from problem
        except OSError as problem:
            if is_full(problem):
                raise DiskFull(home) from problem
            raise UsageError(f"{home} cannot be written ({problem.strerror}); choose another by --home.") from problem

    def opened(self) -> sqlite3.Connection:
        """A connection to the file. One process at a time makes it: SQLite does not wait while the mode changes."""
        connection = self.connected()
        if schema_version(connection) == 0:
            with (self.home / "state.lock").open("a") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                if schema_version(connection) == 0:
                    connection.execute("PRAGMA journal_mode=WAL")
                    connection.executescript(f"{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};")
        if (version := schema_version(connection)) != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it was made by another release: version {version}, not {SCHEMA_VERSION}")
        keep_reserve(self.home)
        return connection

    def connected(self) -> sqlite3.Connection:
        """A connection; on a full disk without reserve, one to a copy in memory that can only be read.

        The index of a write-ahead log needs 32 KB on the disk; for a process that has the file for itself
        (locking_mode=EXCLUSIVE) SQLite keeps it in memory.
        """
        place = self.home / "state.db"
        while True:
            connection = sqlite3.connect(place, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA synchronous=NORMAL")
                schema_version(connection)
            except sqlite3.OperationalError as problem:
                connection.close()
                if not is_full(problem):
                    raise
                if not give_up_reserve(self.home):
                    break
            else:
                return connection
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with contextlib.closing(sqlite3.connect(place, timeout=5, isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.backup(copy)
        copy.execute("PRAGMA query_only=ON")
        self.is_copy = True
        return copy

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What SQLite says within the block, as a sentence."""
        try:
            yield
        except sqlite3.Error as problem:
            if is_full(problem) or self.is_copy:
                raise DiskFull(self.home) from problem
            busy = getattr(problem, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            remedy = "end the process that holds it" if busy else "remove it to start anew"
            place = self.home / "state.db"
            raise UsageError(f"{place} cannot be used ({problem}); {remedy}, or choose another --home.") from problem

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; no other process writes meanwhile. One within another is part of it."""
        with self.lock:
            if self.connection.in_transaction:
                yield
                return
            self.rows("BEGIN IMMEDIATE")
            try:
                yield
                self.rows("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, no other thread's in between; its rows. On a full disk the reserve is given up for it."""
        with self.lock, self.explained():
            while True:
                try:
                    return self.connection.execute(statement, values).fetchall()
                except sqlite3.OperationalError as problem:
                    if not is_full(problem) or not give_up_reserve(self.home):
                        raise

    # documents

    def put(self, kind: str, name: str, document: Document) -> None:
        """Create or replace a document; the time of creation is kept."""
        self.rows(
            "INSERT INTO resources VALUES (?, ?, ?, ?) "
            "ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document",
            (kind, name, json.dumps(document), time.time()),
        )

    def get(self, kind: str, name: str) -> Document | None:
        """The document, or None."""
        rows = self.rows("SELECT document FROM resources WHERE kind = ? AND name = ?", (kind, name))
        return json.loads(rows[0][0]) if rows else None

    def delete(self, kind: str, name: str) -> None:
        """Forget the document, if there is one."""
        self.rows("DELETE FROM resources WHERE kind = ? AND name = ?", (kind, name))

    def all(self, kind: str) -> list[Document]:
        """Every document of a kind, oldest first."""
        rows = self.rows("SELECT document FROM resources WHERE kind = ? ORDER BY created, rowid", (kind,))
        return [json.loads(row[0]) for row in rows]

    def change(self, kind: str, name: str, edit: Callable[[Document], None]) -> Document:
        """Read, edit and write a document in one transaction.

        Raises:
            KeyError: there is no such document.
        """
        with self.transaction():
            document = self.get(kind, name)
            if document is None:
                raise KeyError(name)
            edit(document)
            self.put(kind, name, document)
        return document

    # executions and their steps

    def add_execution(self, document: Document) -> None:
        """A new execution; `document` has PipelineExecutionArn, PipelineName and PipelineExecutionStatus."""
        self.rows(
            "INSERT INTO executions VALUES (?, ?, ?, ?, ?)",
            (
                document["PipelineExecutionArn"],
                document["PipelineName"],
                document["PipelineExecutionStatus"],
                document["CreationTime"],
                json.dumps(document),
            ),
        )

    def execution(self, arn: str) -> Document | None:
        """One execution, or None."""
        rows = self.rows("SELECT document FROM executions WHERE arn = ?", (arn,))
        return json.loads(rows[0][0]) if rows else None

    def executions(self, pipeline: str | None = None) -> list[Document]:
        """Executions of a pipeline, or of all, newest first."""
        rows = self.rows(
            "SELECT document FROM executions WHERE ? IS NULL OR pipeline = ? ORDER BY created DESC, rowid DESC",
            (pipeline, pipeline),
        )
        return [json.loads(row[0]) for row in rows]

    def update_execution(self, arn: str, **changes: Any) -> Document:
        """Change some values of an execution."""
        with self.transaction():
            document = {**(self.execution(arn) or {}), **changes, "LastModifiedTime": time.time()}
            self.rows(
                "UPDATE executions SET status = ?, document = ? WHERE arn = ?",
                (document["PipelineExecutionStatus"], json.dumps(document), arn),
            )
        return document

    def put_step(self, execution: str, document: Document) -> None:
        """Create or replace the record of a step; `document` has StepName."""
        self.rows(
            "INSERT INTO steps "
            "VALUES (?, ?, (SELECT COALESCE(MAX(position), -1) + 1 FROM steps WHERE execution = ?), ?) "
            "ON CONFLICT (execution, name) DO UPDATE SET document = excluded.document",
            (execution, document["StepName"], execution, json.dumps(document)),
        )

    def delete_step(self, execution: str, name: str) -> None:
        """Forget a step, so that a retry can start it anew."""
        self.rows("DELETE FROM steps WHERE execution = ? AND name = ?", (execution, name))

    def steps(self, execution: str) -> list[Document]:
        """The steps that were started, in that order."""
        rows = self.rows("SELECT document FROM steps WHERE execution = ? ORDER BY position, rowid", (execution,))
        return [json.loads(row[0]) for row in rows]

    # the step cache and the digests it rests on

    def cached(self, key: str) -> Document | None:
        """What a finished step with that key left, with its `created` time."""
        rows = self.rows("SELECT document, created FROM cache WHERE key = ?", (key,))
        return {**json.loads(rows[0][0]), "created": rows[0][1]} if rows else None

    def put_cached(self, key: str, document: Document) -> None:
        """Remember a finished step."""
        self.rows("INSERT OR REPLACE INTO cache VALUES (?, ?, ?)", (key, time.time(), json.dumps(document)))

    def known_digests(self, prefix: str) -> dict[str, tuple[str, str]]:
        """Path -> (stamp, digest) of the files below a directory, or of one file."""
        rows = self.rows(
            "SELECT path, stamp, digest FROM digests WHERE path = ? OR path BETWEEN ? AND ?",
            (prefix, f"{prefix}/", f"{prefix}0"),
        )
        return {path: (stamp, digest) for path, stamp, digest in rows}

    def put_digests(self, found: dict[str, tuple[str, str]]) -> None:
        """Remember digests of files as they were at a stamp (size, time of change, inode)."""
        with self.transaction():
            for path, (stamp, digest) in found.items():
                self.rows("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (path, stamp, digest))


def empty() -> sqlite3.Connection:
    """A state that holds nothing and is not kept."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.executescript(SCHEMA)
    return connection


def schema_version(connection: sqlite3.Connection) -> int:
    """The version of the tables in a file; 0 when it has none yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
