"""The processes that work on their own: `python -m pipeline.local.runner KIND HOME NAME [PARENT_PID]`.

KIND is `execution`, NAME its ARN, or `transform`, NAME that of a job of CreateTransformJob.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

from pipeline.local.engine.execution import Execution
from pipeline.local.engine.runner_process import keep_handed_lock
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sagemaker.endpoint_servers import waking
from pipeline.local.sagemaker.transform_jobs import run_job
from pipeline.local.sandbox.fork_server import die_with
from pipeline.local.store.state import DiskFull, State


def main(kind: str, home: Path, name: str, parent: int | None) -> None:
    """Run the execution, whose lock this process was handed, or the transform job."""
    if parent is not None:
        die_with(parent)
    with contextlib.suppress(DiskFull), waking(home):  # of a full disk whoever looks says so
        state = State(home)
        api = LocalApi(state)
        if kind == "transform":
            asyncio.run(run_job(state, name, api))
        else:
            keep_handed_lock()
            asyncio.run(Execution(state, name, api).run())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else None)
