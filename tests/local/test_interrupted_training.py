"""A training that is killed: tried again as its step says, or by `retry`; it goes on from its checkpoint."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.local.lab import Lab

KILLED = """
    import os, signal
    from pathlib import Path
    epoch = Path("/opt/ml/checkpoints/epoch")
    reached = int(epoch.read_text()) if epoch.exists() else 0
    print("begins after epoch", reached)
    if reached < {last}:
        epoch.write_text(str(reached + 1))
        os.kill(os.getpid(), signal.SIGKILL)
"""
LOST = {"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"], "IntervalSeconds": 1, "BackoffRate": 1.0}


def checkpoints(*path: Any) -> dict[str, Any]:
    uri = {"Std:Join": {"On": "/", "Values": ["s3://bucket/checkpoints", *path]}}
    return {"CheckpointConfig": {"S3Uri": uri, "LocalPath": "/opt/ml/checkpoints"}}


def test_lost_job_is_tried_again_and_goes_on(lab: Lab) -> None:
    policies = [{**LOST, "MaxAttempts": 2}]
    step = lab.training("Train", KILLED.format(last=2), more=checkpoints("a"), RetryPolicies=policies)
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    assert report.log("Train") == "begins after epoch 2\n"


def test_retry_of_the_execution_goes_on_from_the_checkpoint_of_that_execution(lab: Lab) -> None:
    place = checkpoints({"Get": "Execution.PipelineExecutionId"})
    step = lab.training("Train", KILLED.format(last=1), more=place)
    report = lab.run(step)
    assert report.code == 1
    assert report.statuses["Train"].startswith("InternalServerError: ")
    python, program = lab.command({"Version": "2020-12-01", "Steps": [step]})[:2]
    retry = [python, program, "retry", "--home", str(lab.home), "--pipeline", "lab", "--json"]
    done = subprocess.run(retry, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["steps"]
    assert Path(found["log"]).read_text() == "begins after epoch 1\n"
    assert lab.run(step).code == 1, "another execution begins anew"
