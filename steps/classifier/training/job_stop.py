"""A training that ends early: asked by SIGTERM or by a rule, it keeps its best model, and its job ends as Stopped.

SageMaker knows the status Stopped only for a job that StopTrainingJob ended (what is in /opt/ml/model is kept then), so
a script that a rule stops asks for that itself. A runner that has no such operation names a file for the reason.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from classifier.job.failures import say
from classifier.training.loop import Watcher

REASON_FILE = "JOB_STOP_FILE"  # environment variable: the file in which a runner that is not SageMaker expects it


@contextmanager
def stopped_by_sigterm(watcher: Watcher) -> Iterator[Watcher]:
    """SIGTERM (StopTrainingJob, the end of MaxRuntime, spot capacity taken back) ends the training after its step."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        watcher.stop_requested = "The job was asked to stop (SIGTERM)."

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield watcher
    finally:
        signal.signal(signal.SIGTERM, before)


def end_as_stopped(reason: str) -> None:
    """Make the job's status Stopped once its script has ended."""
    if file := os.environ.get(REASON_FILE):
        Path(file).write_text(reason, encoding="utf-8")
    elif job_name := os.environ.get("TRAINING_JOB_NAME"):
        _stop_training_job(job_name)


def _stop_training_job(job_name: str) -> None:
    """StopTrainingJob of this very job. Without permission or network the job ends Completed, and says why."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        boto3.client("sagemaker").stop_training_job(TrainingJobName=job_name)
    except (BotoCoreError, ClientError) as error:
        say(f"StopTrainingJob failed ({' '.join(str(error).split())}): the job ends as Completed.")
