"""Training jobs: both launchers and own entry points, what a script is given, metrics, artifacts and ends."""

import contextlib
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from tests.local.lab import Lab, compare, condition, get
from tests.local.samples import processes_of


def lines_of(lab: Lab, uri: str) -> list[str]:
    """The members of a .tar.gz object."""
    with tarfile.open(lab.path(uri)) as archive:
        return sorted(archive.getnames())


def test_metrics_are_read_from_both_streams_and_used_downstream(lab: Lab) -> None:
    step = lab.training(
        "Train",
        """
        import sys
        [sys.stdout.write("x" * 65536) for _ in range(80)]  # a flood without lines holds nothing up
        print(" flood=0.5")
        print("epoch=1 val:acc=0.5 loss=1e-3")
        print("epoch=2 val:acc=0.75", file=sys.stderr)
        print("val:acc=nan loss=inf maybe=")
        sys.stdout.write("last=7")
        """,
        metrics={
            "flood": ".*flood=([0-9.]+)",
            "val:acc": "val:acc=([0-9.a-z]+)",
            "loss": "loss=([0-9.e-]+|inf)",
            "maybe": "maybe=([0-9]+)?",
            "no group": "epoch=[0-9]+",
            "last": "last=([0-9]+)",
            "never": "never=([0-9]+)",
        },
    )
    metric = get("Steps.Train.FinalMetricDataList['val:acc'].Value")
    gate = condition("Gate", [compare("GreaterThanOrEqualTo", metric, 0.75)], [], [])
    report = lab.run(step, gate)
    values = {found["MetricName"]: found["Value"] for found in report.properties("Train")["FinalMetricDataList"]}
    assert values == {"flood": 0.5, "val:acc": 0.75, "loss": 0.001, "last": 7.0}
    assert report.step("Train")["seconds"] < 60
    assert report.step("Gate")["outcome"] == "True"


def test_artifacts_are_packed_without_a_directory_of_their_own(lab: Lab) -> None:
    code = """
        import os
        os.makedirs(os.environ["SM_MODEL_DIR"] + "/code")
        open(os.environ["SM_MODEL_DIR"] + "/code/serve.py", "w").write("x")
        open(os.environ["SM_MODEL_DIR"] + "/m.bin", "w").write("m")
        open(os.environ["SM_OUTPUT_DATA_DIR"] + "/curve.txt", "w").write("c")
    """
    packed = lab.training("Packed", code)
    plain = lab.training("Plain", code)
    plain["Arguments"]["OutputDataConfig"] = {"S3OutputPath": "s3://bucket/plain/", "CompressionType": "NONE"}
    empty = lab.training("Empty", "")
    report = lab.run(packed, plain, empty)
    uri = report.properties("Packed")["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://bucket/models/{report.record('Packed')['Job']}/output/model.tar.gz"
    assert lines_of(lab, uri) == ["code/serve.py", "m.bin"]
    assert lines_of(lab, uri.replace("model.tar.gz", "output.tar.gz")) == ["curve.txt"]
    uri = report.properties("Plain")["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://bucket/plain/{report.record('Plain')['Job']}/output/model/"
    assert lab.get(f"{uri}code/serve.py") == "x"
    assert lines_of(lab, report.properties("Empty")["ModelArtifacts"]["S3ModelArtifacts"]) == []


def test_the_same_artifacts_give_the_same_bytes_and_only_what_shrinks_is_made_smaller(lab: Lab) -> None:
    code = """
        import random
        for name, content in (("weights", random.Random(0).randbytes(300_000)), ("text", b"x" * {count})):
            open(f"/opt/ml/model/{name}", "wb").write(content)
    """
    steps = [lab.training(name, code.replace("{count}", n)) for name, n in (("A", "9"), ("B", "9"), ("C", "3_000_000"))]
    report = lab.run(*steps)
    found = [
        lab.path(report.properties(name)["ModelArtifacts"]["S3ModelArtifacts"]).read_bytes() for name in ("A", "B", "C")
    ]
    assert found[0] == found[1]
    assert 300_000 < len(found[0]) < 320_000
    assert len(found[2]) < 400_000


def test_checkpoints_are_kept_while_a_job_runs(lab: Lab) -> None:
    code = """
        import os, time
        from pathlib import Path
        folder = Path("/opt/ml/checkpoints")
        if (folder / "epoch").exists():
            print("goes on from", (folder / "epoch").read_text())
        else:
            for epoch in range(3):
                (folder / "epoch").write_text(str(epoch))
            time.sleep(60)
    """
    step = lab.training("Train", code, more={"CheckpointConfig": {"S3Uri": "s3://bucket/ckpt/"}})  # the default folder
    words = lab.command({"Version": "2020-12-01", "Steps": [step]})
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not lab.path("s3://bucket/ckpt/epoch").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    assert lab.run(step).log("Train") == "goes on from 2\n"


def test_why_a_training_job_failed_is_told(lab: Lab) -> None:
    said = "open('/opt/ml/output/failure', 'w').write('the true reason'); raise SystemExit('another')"
    slow = "import os, time; print('x', flush=True); open('/opt/ml/model/m', 'w').write('m'); time.sleep(60)"
    elsewhere = {"CheckpointConfig": {"S3Uri": "s3://bucket/ckpt", "LocalPath": "/tmp/ckpt"}}
    steps = [
        lab.training("Said", said),
        lab.training("Raised", "raise ValueError('lr must be positive')"),
        lab.training("Slow", slow, more={"StoppingCondition": {"MaxRuntimeInSeconds": 2}}),
        lab.training("Elsewhere", "", more=elsewhere),
    ]
    report = lab.run(*steps)
    assert report.statuses == {
        "Said": "AlgorithmError: the true reason, exit code: 1",
        "Raised": "AlgorithmError: ValueError: lr must be positive, exit code: 1",
        "Slow": "ClientError: the job ran longer than MaxRuntimeInSeconds = 2 and was ended.",
        "Elsewhere": "ClientError: LocalPath '/tmp/ckpt' is not below /opt/ml, which is all that a job has here.",
    }
    assert report.record("Raised")["Metadata"]["TrainingJob"]["Arn"].endswith(report.record("Raised")["Job"])
    assert lines_of(lab, f"s3://bucket/models/{report.record('Slow')['Job']}/output/model.tar.gz") == ["m"]


def test_a_job_killed_from_outside_is_tried_again_as_its_policies_say(lab: Lab) -> None:
    code = """
        import time
        from pathlib import Path
        if Path("/opt/ml/input/data/told/word.txt").read_text() == "wait":
            time.sleep(60)
    """
    policies = [{"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"], "IntervalSeconds": 1, "BackoffRate": 1.0}]
    for name in ("Retried", "Not"):
        lab.put(f"s3://bucket/{name}/word.txt", "wait")
    steps = [
        lab.training(name, code, channels={"told": f"s3://bucket/{name}"}, RetryPolicies=retried)
        for name, retried in (("Retried", policies), ("Not", [{**policies[0], "ExceptionType": ["Step.THROTTLING"]}]))
    ]
    process = subprocess.Popen(
        lab.command({"Version": "2020-12-01", "Steps": steps}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    for name in ("Retried", "Not"):
        pid = script_process(lab, name)
        lab.put(f"s3://bucket/{name}/word.txt", "go")
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    rows = {row["name"]: row["failure_reason"] for row in json.loads(output)["steps"]}
    assert rows == {
        "Retried": None,
        "Not": "InternalServerError: the job's process was killed from outside; its last line: no output",
    }


def script_process(lab: Lab, step: str) -> int:
    """The process of a step's script, once it runs."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in processes_of(lab.folder):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"train.py" in words and f"-{step}-".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    return pid
        time.sleep(0.02)
    raise AssertionError("the script has not begun in time")


KILLED = """
    import os, signal
    from pathlib import Path
    epoch = Path("/opt/ml/checkpoints/epoch")
    reached = int(epoch.read_text()) if epoch.exists() else 0
    print("begins after epoch", reached, *[path.name for path in epoch.parent.glob("deep/*")])
    if reached < {last}:
        epoch.write_text(str(reached + 1))
        os.kill(os.getpid(), signal.SIGKILL)
"""
LOST = {"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"], "IntervalSeconds": 1, "BackoffRate": 1.0}


def checkpoints(*path: Any) -> dict[str, Any]:
    uri = {"Std:Join": {"On": "/", "Values": ["s3://bucket/checkpoints", *path]}}
    return {"CheckpointConfig": {"S3Uri": uri, "LocalPath": "/opt/ml/checkpoints"}}


def test_lost_job_is_tried_again_and_goes_on(lab: Lab) -> None:
    lab.put("s3://bucket/checkpoints/a/deep/old", "restored")
    policies = [{**LOST, "MaxAttempts": 2}]
    step = lab.training("Train", KILLED.format(last=2), more=checkpoints("a"), RetryPolicies=policies)
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    assert report.log("Train") == "begins after epoch 2 old\n"


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
