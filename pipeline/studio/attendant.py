"""What the server does beside answering: it wakes endpoints, starts what is due, and has ended executions written down.

MLflow is written by a process of its own, which yields to whatever else wants the processor.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError
from pipeline.local.sagemaker.endpoints import waking
from pipeline.service.executions import ENDED, pipeline_of, search
from pipeline.service.retraining import run_due
from pipeline.studio import commands
from pipeline.studio.site import Studio

LOOK_SECONDS = 5.0
NEWEST = 40  # executions that are looked at


@contextmanager
def attending(studio: Studio, *, say: Callable[[str], None]) -> Iterator[None]:
    """Do all that until the end of the block; `say` hears what schedules have started, and what has failed."""
    stopped, home = threading.Event(), studio.target.home
    threads = [
        threading.Thread(target=run_due, args=(home, stopped), kwargs={"say": say}),
        threading.Thread(target=keep_experiments, args=(studio, stopped, say)),
    ]
    with waking(home):
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()


def keep_experiments(studio: Studio, stopped: threading.Event, say: Callable[[str], None]) -> None:
    """Have the executions of a pipeline written to MLflow whenever one of them has ended."""
    written, version = dict[str, list[object]](), None
    while not stopped.wait(LOOK_SECONDS):
        if version == (version := studio.version):
            continue
        try:
            ended = newest_ends(studio)
        except PipelineError as refused:
            say(str(refused))
            continue
        for name in (name for name, end in ended.items() if written.get(name) != end):
            command = f"nice -n 10 {studio.call.command('experiments', '--pipeline', name)}"
            process = commands.start(command, apart=True)
            while process.poll() is None and not stopped.wait(0.2):
                pass
            if stopped.is_set():
                process.terminate()
                process.wait()
            elif problem := commands.failure(command):
                say(f"Executions of {name} could not be written to MLflow: {problem}")
        written = ended


def newest_ends(studio: Studio) -> dict[str, list[object]]:
    """Return of the newest executions when those that have ended did, by pipeline."""
    ends = defaultdict[str, list[object]](list)
    for each in (found["PipelineExecution"] for found in search(studio.target, {}, NEWEST)["Results"]):
        if each["PipelineExecutionStatus"] in ENDED:
            ends[pipeline_of(each["PipelineExecutionArn"])].append(each["LastModifiedTime"])
    return ends
