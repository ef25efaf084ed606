"""What a job leaves behind, told from the runner's other children."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.local.sandbox.orphans import end_orphans
from tests.local.samples import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_has_died_with_the_jobs_group_leaves_no_zombie() -> None:
    left = subprocess.Popen(SLEEP, process_group=0)
    other = subprocess.Popen(SLEEP)
    try:
        os.killpg(left.pid, signal.SIGKILL)
        wait_until(lambda: state(left.pid) == "Z")
        end_orphans(left.pid, "NO_SUCH_JOB=1", None)
        assert not Path(f"/proc/{left.pid}").exists()
        assert state(other.pid) != "Z"
    finally:
        other.kill()
        other.wait()
        left.wait()


def test_what_has_left_the_group_is_known_by_the_jobs_name() -> None:
    left = subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, "SOME_JOB": "a"})
    other = subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, "SOME_JOB": "b"})
    try:
        wait_until(lambda: b"time.sleep" in Path(f"/proc/{left.pid}/cmdline").read_bytes())
        end_orphans(2**22, "SOME_JOB=a", None)  # a group that is not there
        assert not Path(f"/proc/{left.pid}").exists()
        time.sleep(0.1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        left.wait()
