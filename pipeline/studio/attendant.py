"""What the server does beside answering: it wakes endpoints, starts what is due, and has ended executions written down.

MLflow is written by a process of its own, which yields to whatever else wants the processor.
"""

import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.sagemaker.endpoints import waking
from pipeline.service.executions import ENDED, pipeline_of
from pipeline.service.retraining import run_due
from pipeline.studio.site import Studio

LOOK_SECONDS = 5.0
NEWEST = 20  # executions that `experiments` writes
ENDED_ONES: dict[str, Any] = {
    "Resource": "PipelineExecution",
    "SearchExpression": {"Filters": [{"Name": "PipelineExecutionStatus", "Operator": "In", "Value": ",".join(ENDED)}]},
    "SortBy": "LastModifiedTime",
    "SortOrder": "Descending",
    "MaxResults": NEWEST,
}


@contextmanager
def attending(studio: Studio, *, say: Callable[[str], None]) -> Iterator[None]:
    """Do all that until the end of the block; `say` hears what schedules have started, and what has failed."""
    stopped, home = threading.Event(), studio.target.home
    threads = [
        threading.Thread(target=run_due, args=(home, stopped), kwargs={"say": say}),
        threading.Thread(target=keep_experiments, args=(studio, stopped, say)),
    ]
    with ExitStack() as held:
        held.enter_context(waking(home))
        for thread in threads:
            thread.start()
            held.callback(thread.join)
        held.callback(stopped.set)
        yield


def keep_experiments(studio: Studio, stopped: threading.Event, say: Callable[[str], None]) -> None:
    """Have the executions of a pipeline written to MLflow whenever one of them has ended."""
    written, version = dict[str, object](), None
    while not stopped.wait(LOOK_SECONDS):
        if version == (version := studio.version):
            continue
        try:
            ended = newest_ends(studio)
        except PipelineError as problem:
            say(str(problem))
            continue
        for name in (name for name, end in ended.items() if written.get(name) != end):
            if fault := write(studio, name, stopped):
                say(f"Executions of {name} could not be written to MLflow: {fault}")
        written = ended


def newest_ends(studio: Studio) -> dict[str, object]:
    """Return pipelines with executions that have ended, of the newest ones, and when the last of each did."""
    ends = dict[str, object]()
    for found in studio.target.client("sagemaker").search(**ENDED_ONES)["Results"]:
        execution = found["PipelineExecution"]
        ends.setdefault(pipeline_of(execution["PipelineExecutionArn"]), execution["LastModifiedTime"])
    return ends


def write(studio: Studio, pipeline_name: str, stopped: threading.Event) -> str:
    """Run `experiments`, ended with the server; return why it failed, or nothing."""
    words = ["nice", "-n", "10", *shlex.split(studio.call.command("experiments", "--pipeline", pipeline_name))]
    silent: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **silent, text=True, start_new_session=True) as process:
        while True:
            with suppress(subprocess.TimeoutExpired):
                said = process.communicate(timeout=0.2)[1].strip()
                return (said or f"exit status {process.returncode}") if process.returncode else ""
            if stopped.is_set():
                process.terminate()
                return ""
