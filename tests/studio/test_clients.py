"""Scripts of the stock SDK and of boto3, which know of this machine by their environment alone."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.session import SDK_DEFAULTS
from tests.studio.conftest import Studio

CLIENTS = Path(__file__).with_name("clients")


@pytest.mark.parametrize("script", ["boto3_jobs.py", "sdk.py"])
def test_a_script_that_nobody_wrote_for_this_machine_runs_and_sends_nothing(studio: Studio, script, tmp_path) -> None:
    (tmp_path / "rows.csv").write_text("1,3\n2,6\n4,12\n")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.1)
        settings = {
            **{name: os.environ[name] for name in ("PATH", "VIRTUAL_ENV") if name in os.environ},
            **studio.variables(),
            "HOME": str(tmp_path),
            "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(SDK_DEFAULTS),
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}",
        }
        words = [sys.executable, str(CLIENTS / script)]
        done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        with pytest.raises(TimeoutError):  # nobody has connected
            proxy.accept()
    if script == "sdk.py":  # the training's log was shown
        assert "Executing command" in done.stderr and "loss=0.000" in done.stderr


def test_of_many_who_create_a_job_one_has_it_and_it_outlives_the_server(studio: Studio) -> None:
    request = {
        "TrainingJobName": "only",
        "AlgorithmSpecification": {
            "TrainingImage": "any",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sh", "-c", "sleep 1; echo done"],
        },
        "RoleArn": "arn:aws:iam::000000000000:role/any",
        "OutputDataConfig": {"S3OutputPath": "s3://work/models"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    client = studio.client("sagemaker")

    def create(_: int) -> str:
        try:
            return str(client.create_training_job(**request)["TrainingJobArn"])
        except ClientError as problem:
            return str(problem.response["Error"]["Code"])

    with ThreadPoolExecutor(8) as pool:
        said = sorted(pool.map(create, range(8)))
    assert said == ["ResourceInUse"] * 7 + ["arn:aws:sagemaker:us-east-1:000000000000:training-job/only"]
    studio.process.kill()
    studio.process.wait()
    studio.start()
    waiter = studio.client("sagemaker").get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName="only", WaiterConfig={"Delay": 1})
    found = studio.client("logs").get_log_events(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamName="only/algo-1"
    )
    assert [event["message"] for event in found["events"]] == ["done"]
