"""The process that runs an execution, and the lock by which everybody knows whether it lives.

The lock on `executions/<id>.lock` is taken before the execution is recorded and handed down to the runner, which holds
it as long as it lives, however it ends. So there is no moment at which a starting runner could be taken for a dead one,
and no two runners of one execution. The runner's process id is in the file.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from pipeline.local import PACKAGE_PARENT
from pipeline.local.store.state import State

LOCK_VARIABLE = "LOCAL_RUNNER_LOCK"  # the file descriptor of the lock that a runner is handed
PID_WAIT_SECONDS = 5.0


def execution_id_of(execution_arn: str) -> str:
    """The last part of an execution's ARN."""
    return execution_arn.rpartition("/")[2]


def lock_path(state: State, execution_arn: str) -> Path:
    """The lock of an execution."""
    return state.home / "executions" / f"{execution_id_of(execution_arn)}.lock"


@contextmanager
def taken_lock(path: Path, wait_seconds: float = 0.0) -> Iterator[int]:
    """Take the lock: its file descriptor. It is let go at the end of the block, unless a runner has been handed it.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(lock, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise BlockingIOError(f"{path} is held by another process")
            time.sleep(0.01)
        os.ftruncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


def locked(lock: int, kind: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """In a runner: hold the lock that it was handed, or else take it, until the end of the block or of the process.

    Raises:
        BlockingIOError: another process holds it.
    """
    handed = os.environ.pop(LOCK_VARIABLE, None)
    if handed is None:
        with taken_lock(path) as lock:
            sign(lock, os.getpid())
            yield
        return
    os.set_inheritable(int(handed), False)
    sign(int(handed), os.getpid())
    yield


def sign(lock: int, pid: int) -> None:
    """Write down whose lock it is; the runner and who started it both do, since either may be killed."""
    os.pwrite(lock, str(pid).encode(), 0)


def runner_pid(path: Path) -> int | None:
    """The process that holds the lock; None if nobody does. The number is written just after the lock is taken."""
    deadline = time.monotonic() + PID_WAIT_SECONDS
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(lock, fcntl.LOCK_SH):
            if number := os.pread(lock, 20, 0):
                return int(number)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)
        return None
    finally:
        os.close(lock)


def spawn_runner(state: State, execution_arn: str, lock: int) -> None:
    """Start the process that runs an execution. With the option `tied` it dies with the command that started it."""
    log = lock_path(state, execution_arn).with_suffix(".log")
    tied = [str(os.getpid())] if state.start_options.get("tied") else []
    words = ["pipeline.local.runner", "execution", str(state.home), execution_arn, *tied]
    spawn_detached(words, log, lock, {LOCK_VARIABLE: str(lock)})


def spawn_detached(words: list[str], log: Path, lock: int, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Start `python -m WORDS...` in a session of its own, whatever modules the working directory has.

    It is handed the lock, which then holds its process id.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *words],
            env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
    sign(lock, process.pid)
