"""The processes that work on their own: `python -m pipeline.local.runner KIND HOME NAME LOCK [PARENT_PID]`.

KIND is `execution`, NAME its ARN, or `TrainingJob` and the like, NAME that of a job
that was created outside pipelines; LOCK is the file descriptor
of the lock that the process is handed.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from pipeline.local.engine.execution import Execution
from pipeline.local.engine.runner_process import sign
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sagemaker.created_jobs import run_job
from pipeline.local.sagemaker.endpoints import waking
from pipeline.local.sandbox.supervisor import die_with
from pipeline.local.store.state import DiskFull, State


def main(kind: str, home: Path, name: str, lock: int, *parents: int) -> None:
    """Run the execution or the job, and end with the parent if there is one."""
    sign(lock, os.getpid())
    for parent in parents:
        die_with(parent)
    with contextlib.suppress(DiskFull), waking(home):  # of a full disk whoever looks says so
        state = State(home)
        api = LocalApi(state)
        work = Execution(state, name, api).run() if kind == "execution" else run_job(kind, state, name, api)
        asyncio.run(work)


if __name__ == "__main__":
    kind, home, name, *numbers = sys.argv[1:]
    main(kind, Path(home), name, *map(int, numbers))
